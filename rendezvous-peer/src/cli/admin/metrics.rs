//! The numbers in the text format of OpenMetrics, for Prometheus and its kin.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::status::{State, Status};

/// The type of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Each counter of a [`Status`] with the name and the help of its metric. `_total` is added.
#[rustfmt::skip]
const COUNTERS: [(&str, &str, &str); 39] = [
    ("connected", "rdv_connections_welcomed", "Connections welcomed"),
    ("connections_moved", "rdv_connections_moved", "Connections that have attested another address than their handshake's"),
    ("registered", "rdv_registrations_made", "Registrations made or renewed"),
    ("not_admitted", "rdv_registrations_not_admitted", "Registrations refused because the peer does not host everybody"),
    ("forgotten", "rdv_registrations_forgotten", "Registrations forgotten because nobody came back"),
    ("left", "rdv_registrations_given_up", "Registrations that their devices gave up"),
    ("published", "rdv_bundles_published", "Prekey bundles published"),
    ("looked_up", "rdv_lookups", "Look-ups answered with a bundle"),
    ("dropped", "rdv_envelopes_accepted", "Envelopes accepted"),
    ("pushed", "rdv_envelopes_pushed", "Envelopes pushed to connected recipients"),
    ("acknowledged", "rdv_envelopes_acknowledged", "Envelopes acknowledged by their recipients"),
    ("expired", "rdv_envelopes_expired", "Envelopes whose time ran out"),
    ("knocks", "rdv_knocks", "Knocks asked for"),
    ("knocks_forwarded", "rdv_knocks_forwarded", "Knocks passed on"),
    ("refused", "rdv_requests_refused", "Requests refused, for whatever reason"),
    ("echoes", "rdv_echoes", "Echo requests answered"),
    ("echoes_refused", "rdv_echoes_refused", "Echo requests without an answer"),
    ("channels_leased", "rdv_relay_channels_leased", "Relay channels leased"),
    ("channels_refused", "rdv_relay_channels_refused", "Relay channels for which there was no room"),
    ("channels_silent", "rdv_relay_channels_silent", "Relay channels that ended because nothing was heard on them"),
    ("relayed_frames", "rdv_relay_frames", "Frames passed on from one node to another"),
    ("relayed_bytes", "rdv_relay_bytes", "Bytes of the frames passed on"),
    ("relay_without_channel", "rdv_relay_frames_without_channel", "Frames dropped for want of a channel"),
    ("relay_to_silent", "rdv_relay_frames_to_silent", "Frames dropped because the other end was silent for too long"),
    ("relay_over_rate", "rdv_relay_frames_over_rate", "Frames dropped because of a rate limit"),
    ("relay_challenges", "rdv_relay_challenges", "Challenges to addresses that claim to be the end of a channel"),
    ("relay_moves", "rdv_relay_moves", "Ends of channels that moved to another address"),
    ("parked", "rdv_registrations_parked", "Times that a device has parked: it gave up its connection, and is rung"),
    ("keepalives", "rdv_keepalives", "Keepalives of parked devices"),
    ("parked_unknown", "rdv_keepalives_unknown", "Keepalives for registrations that are not here"),
    ("parked_challenges", "rdv_parked_challenges", "Challenges to parked devices that seem to be at another address"),
    ("parked_moves", "rdv_parked_moves", "Parked devices that moved to another address"),
    ("rings", "rdv_rings", "Times that a parked device was rung"),
    ("rings_repeated", "rdv_rings_repeated", "Rings repeated because nothing answered"),
    ("datagrams_ignored", "rdv_datagrams_ignored", "Datagrams that the peer could not read, or that are not for a peer"),
    ("websocket_tunnels", "rdv_websocket_tunnels_opened", "Tunnels through WebSockets that were made"),
    ("websocket_pages", "rdv_websocket_pages", "Requests to the WebSockets' port that got a page or an error"),
    ("websocket_failed", "rdv_websocket_failed", "TCP connections that failed before they asked for anything"),
    ("websocket_refused", "rdv_websocket_refused", "TCP connections beyond a limit"),
];

/// The text for a scrape.
pub(super) fn text(status: Status) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(status)));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string takes whatever is written to it");
    text
}

#[derive(Debug)]
struct Scrape(Status);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let status = &self.0;
        let mut out = Out(&mut encoder);
        out.info("rdv_build", "The program", &[("version", &status.version)])?;
        let draining = u64::from(status.state == State::Draining);
        let started = status.facts.start_time_s;
        out.gauge("rdv_draining", "1 while the peer is about to stop", draining)?;
        out.gauge("rdv_start_time_seconds", "When the peer started, since 1970", started)?;
        for (name, what, level) in [
            ("connections", "Connections", status.connections),
            ("registrations", "Registered devices", status.registrations),
            ("relay_channels", "Relay channels", status.relay_channels),
            ("memory_bytes", "Bytes of the table and the mailboxes", status.memory_bytes),
        ] {
            out.gauge(&format!("rdv_{name}"), what, level.now)?;
            let limit = format!("{what}, at most");
            out.gauge(&format!("rdv_{name}_limit"), &limit, level.limit)?;
        }
        let invites = "Invites that somebody has made theirs by using them first";
        out.gauge("rdv_invites_in_use", invites, status.invites_in_use)?;
        let tunnels = "Tunnels through WebSockets";
        out.gauge("rdv_websocket_tunnels", tunnels, status.websocket_tunnels)?;
        if let Some(ending) = status.certificate {
            let help = "When the certificate of the WebSockets' port ends, since 1970";
            let ends = u64::try_from(ending.ends_s).unwrap_or(0);
            out.gauge("rdv_certificate_end_time_seconds", help, ends)?;
        }
        for (counter, name, help) in COUNTERS {
            out.counter(name, help, status.counters.get(counter).copied().unwrap_or(0))?;
        }
        out.by_kind("rdv_incidents", "Incidents by kind", &status.incidents)?;
        let process = status.process;
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Memory in RAM", process.rss_bytes),
            ("process_open_fds", "Open files and sockets", process.open_fds),
            ("process_max_fds", "Open files and sockets, at most", process.max_fds),
            ("process_start_time_seconds", "When the process started, since 1970", Some(started)),
        ] {
            if let Some(value) = value {
                out.gauge(name, help, value)?;
            }
        }
        #[allow(clippy::cast_precision_loss, reason = "a double counts milliseconds for ages")]
        let seconds = process.cpu_ms as f64 / 1000.0;
        out.counter("process_cpu_seconds", "Processor time", seconds)
    }
}

struct Out<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Out<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.0.encode_descriptor(name, help, None, gauge.metric_type())?)
    }

    fn counter<N>(&mut self, name: &str, help: &str, value: N) -> fmt::Result
    where
        ConstCounter<N>: EncodeMetric,
    {
        let counter = ConstCounter::new(value);
        counter.encode(self.0.encode_descriptor(name, help, None, counter.metric_type())?)
    }

    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        let info = Info::new(labels.to_vec());
        info.encode(self.0.encode_descriptor(name, help, None, info.metric_type())?)
    }

    fn by_kind<'k>(
        &mut self,
        name: &str,
        help: &str,
        counts: impl IntoIterator<Item = (&'k String, &'k u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (kind, count) in counts {
            let label = [("kind", kind.as_str())];
            ConstCounter::new(*count).encode(family.encode_family(&label)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::admin::status::tests::sample;
    use std::collections::BTreeSet;

    #[test]
    fn every_counter_is_a_metric() {
        let of_status: BTreeSet<String> = sample().counters.into_keys().collect();
        let of_metrics: BTreeSet<String> = COUNTERS.iter().map(|(c, ..)| (*c).into()).collect();
        assert_eq!(of_status, of_metrics);
    }

    #[test]
    fn a_scrape_reads_as_openmetrics() {
        let mut status = sample();
        status.counters.insert("relayed_bytes".into(), 77);
        status.incidents.insert("malformed".into(), 3);
        let text = text(status);
        for line in [
            "# TYPE rdv_build info",
            concat!("rdv_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "# TYPE rdv_connections gauge",
            "rdv_connections 0",
            "# HELP rdv_relay_bytes Bytes of the frames passed on",
            "rdv_relay_bytes_total 77",
            "rdv_incidents_total{kind=\"malformed\"} 3",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
        let names = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).map(|l| l.split(' '));
        let names: Vec<_> = names.map(|mut words| words.next().unwrap()).collect();
        assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len(), "each comes once");
        assert!(names.iter().all(|n| n.starts_with("rdv_") || n.starts_with("process_")));
    }
}
