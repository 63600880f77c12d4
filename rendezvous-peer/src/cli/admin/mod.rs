//! Where the operator of a running peer looks at it: plain HTTP on the loopback, to read only.
//!
//! | path | answer |
//! |---|---|
//! | `/` | the numbers as a page |
//! | `/status` | the numbers as JSON |
//! | `/metrics` | the numbers as OpenMetrics |
//! | `/healthz` | 200 while the process lives |
//! | `/readyz` | 200 while the peer takes connections, 503 while it stops |
//!
//! Nobody is asked for a password: it is for whoever may run programs on the machine. A web page
//! in the operator's browser is not among them, even when its own name leads to the loopback:
//! only requests for a name of the loopback are answered.

mod address;
pub(super) mod client;
mod metrics;
mod page;
mod process;
mod sections;
mod status;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST};
use hyper::header::{HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rendezvous_peer::Monitor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(super) use self::address::AdminAddr;
pub(super) use self::sections::{Section, bytes, certificate, grouped, sections, span};
#[cfg(test)]
pub(super) use self::status::tests::sample;
pub(super) use self::status::{Facts, Level, State, Status};

/// Requests at a time: a scraper, a page, some commands. Others wait.
const CONNECTIONS: usize = 16;
/// How long a request may take to arrive.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// How long everything may take, so that somebody who does not read holds no place for ever.
const CONNECTION_TIME: Duration = Duration::from_secs(15);
/// Bytes of a request. A browser's cookies for other servers of the machine fit in.
const REQUEST_SIZE: usize = 32 << 10;
/// How long accepting pauses when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An open port at which nobody is answered yet.
pub(super) struct AdminListener {
    socket: TcpListener,
    local: SocketAddr,
}

/// Answers until it is dropped.
pub(super) struct AdminServer {
    _stop: DropGuard,
}

impl AdminListener {
    /// Opens the port.
    pub(super) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let local = socket.local_addr()?;
        Ok(Self { socket, local })
    }

    /// Where it is.
    pub(super) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Begins to answer.
    pub(super) fn serve(self, monitor: Monitor, facts: Facts) -> AdminServer {
        let stop = CancellationToken::new();
        let desk = Arc::new(Desk { monitor, facts });
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept_loop(
            self.socket,
            desk,
            stop.clone(),
        )));
        AdminServer { _stop: stop.drop_guard() }
    }
}

async fn accept_loop(socket: TcpListener, desk: Arc<Desk>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let desk = Arc::clone(&desk);
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            // Whoever does not listen any more has nothing to hear about it.
            let _ = timeout(CONNECTION_TIME, converse(stream, &desk)).await;
            drop(place);
        }));
    }
}

async fn converse(stream: TcpStream, desk: &Desk) -> hyper::Result<()> {
    let answer =
        service_fn(|request| std::future::ready(Ok::<_, Infallible>(desk.answer(&request))));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .keep_alive(false)
        .max_buf_size(REQUEST_SIZE)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

type Answer = Response<Full<Bytes>>;

/// Answers requests.
struct Desk {
    monitor: Monitor,
    facts: Facts,
}

impl Desk {
    fn answer<B>(&self, request: &Request<B>) -> Answer {
        if !is_for_loopback(request) {
            let why = "ask for 127.0.0.1, [::1] or localhost\n";
            return text(StatusCode::MISDIRECTED_REQUEST, why);
        }
        // Hyper sends no body in the answer to HEAD.
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "this is to read only\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match request.uri().path() {
            "/" => self.page(),
            "/status" => self.status(),
            "/metrics" => typed(metrics::CONTENT_TYPE, metrics::text(self.now())),
            "/healthz" => text(StatusCode::OK, "alive\n"),
            "/readyz" => match self.now().state {
                State::Accepting => text(StatusCode::OK, "accepting\n"),
                State::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            },
            _ => {
                let paths = "there are /, /status, /metrics, /healthz and /readyz\n";
                text(StatusCode::NOT_FOUND, paths)
            }
        }
    }

    fn now(&self) -> Status {
        Status::now(&self.monitor, &self.facts)
    }

    fn status(&self) -> Answer {
        let json = serde_json::to_string(&self.now()).expect("a status is plain data");
        typed("application/json", json + "\n")
    }

    fn page(&self) -> Answer {
        let mut random = [0; 16];
        if getrandom::fill(&mut random).is_err() {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "no random bytes\n");
        }
        let nonce = format!("{:032x}", u128::from_be_bytes(random));
        let mut answer = typed("text/html; charset=utf-8", page::html(&self.now(), &nonce));
        let policy = format!(
            "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'"
        );
        let policy = HeaderValue::from_str(&policy).expect("a policy is ASCII");
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        answer
    }
}

/// Whether a request names the loopback. A page from elsewhere whose name has been made to lead
/// here names itself (DNS rebinding).
fn is_for_loopback<B>(request: &Request<B>) -> bool {
    let mut named = request.headers().get_all(HOST).iter();
    let (host, more) = (named.next(), named.next());
    let Some(host) = host.and_then(|h| h.to_str().ok()).filter(|_| more.is_none()) else {
        return false;
    };
    let of_uri = request.uri().host().is_none_or(is_loopback);
    let authority = host.parse::<hyper::http::uri::Authority>();
    of_uri && authority.is_ok_and(|a| is_loopback(a.host()))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || bare.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = typed("text/plain; charset=utf-8", text.to_owned());
    *answer.status_mut() = status;
    answer
}

fn typed(kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    let headers = answer.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_loopback_lead_here() {
        let asks = |host: &str| {
            let request = Request::builder().header(HOST, host).body(());
            is_for_loopback(&request.expect("a request"))
        };
        for host in ["127.0.0.1:9464", "localhost", "LOCALHOST:80", "[::1]:9464", "127.1.2.3"] {
            assert!(asks(host), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.1", ""]
        {
            assert!(!asks(host), "{host}");
        }
        let none = Request::builder().body(()).expect("a request");
        assert!(!is_for_loopback(&none));
    }
}
