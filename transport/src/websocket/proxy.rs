//! Through an HTTP proxy, with `CONNECT` (RFC 9110, 9.3.6).

use std::fmt;
use std::sync::OnceLock;

use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::http::Uri;

use super::http::{read_head, status};
use super::{TunnelError, authority, within};

/// The port of a proxy whose URL names none.
const DEFAULT_PORT: u16 = 80;

/// The HTTP proxy through which a peer is reached.
#[derive(Clone)]
pub struct Proxy(Intercept);

impl Proxy {
    /// The proxy that the environment names for `host`: `HTTPS_PROXY`, else `ALL_PROXY`, unless
    /// `NO_PROXY` excludes the host. They are read as curl reads them, once for each program.
    pub fn from_env(host: &str) -> Option<Self> {
        static MATCHER: OnceLock<Matcher> = OnceLock::new();
        Self::find(MATCHER.get_or_init(Matcher::from_env), host)
    }

    /// The proxy at this URL, `http://[user:password@]host[:port]`; `None` when it is no URL.
    pub fn at(url: &str) -> Option<Self> {
        Self::find(&Matcher::builder().https(url).build(), "host")
    }

    fn find(matcher: &Matcher, host: &str) -> Option<Self> {
        let uri: Uri = format!("https://{}", authority(host, 443)).parse().ok()?;
        matcher.intercept(&uri).map(Self)
    }

    /// A connection through the proxy.
    pub(super) async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, TunnelError> {
        let uri = self.0.uri();
        // A proxy of another kind is not passed by: who configured it may have a reason.
        let (Some("http"), Some(proxy)) = (uri.scheme_str(), uri.host()) else {
            return Err(TunnelError::ProxyUnusable);
        };
        let proxy = (proxy.trim_matches(['[', ']']), uri.port_u16().unwrap_or(DEFAULT_PORT));
        let unreachable = |e: std::io::Error| TunnelError::ProxyUnreachable(e.kind());
        let mut tcp = within(TcpStream::connect(proxy)).await?.map_err(unreachable)?;
        let request = self.request(&authority(host, port));
        let (head, rest) = within(async {
            tcp.write_all(request.as_bytes()).await?;
            read_head(&mut tcp).await
        })
        .await?
        .map_err(unreachable)?;
        match status(&head) {
            // The other end does not speak before this one has.
            Some(200..=299) if rest.is_empty() => Ok(tcp),
            Some(code @ 300..) => Err(TunnelError::ProxyRefused(code)),
            _ => Err(TunnelError::ProxyUnusable),
        }
    }

    fn request(&self, target: &str) -> String {
        let password = self.0.basic_auth().and_then(|it| it.to_str().ok());
        let password = password.map(|it| format!("Proxy-Authorization: {it}\r\n"));
        format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n",
            password.unwrap_or_default()
        )
    }
}

// The URL may hold a password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxy")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_asked_for_the_host_by_name() {
        let request = Proxy::at("http://proxy.lan:3128").unwrap().request("peer.example.org:443");
        assert_eq!(
            request,
            "CONNECT peer.example.org:443 HTTP/1.1\r\nHost: peer.example.org:443\r\n\r\n"
        );
    }

    #[test]
    fn a_password_goes_to_the_proxy_and_nowhere_else() {
        let proxy = Proxy::at("http://Aladdin:opensesame@proxy.lan:3128").unwrap();
        let header = "Proxy-Authorization: Basic QWxhZGRpbjpvcGVuc2VzYW1l\r\n";
        assert!(proxy.request("peer.example.org:443").contains(header));
        assert_eq!(format!("{proxy:?}"), "Proxy");
    }

    #[test]
    fn hosts_that_the_environment_excludes_are_reached_straight() {
        let matcher = Matcher::builder().all("proxy.lan:3128").no("example.org,10.0.0.0/8").build();
        assert!(Proxy::find(&matcher, "peer.example.net").is_some());
        assert!(Proxy::find(&matcher, "2001:db8::1").is_some());
        assert!(Proxy::find(&matcher, "peer.example.org").is_none());
        assert!(Proxy::find(&matcher, "10.1.2.3").is_none());
    }

    #[tokio::test]
    async fn a_proxy_of_another_kind_is_not_passed_by() {
        for url in ["socks5://127.0.0.1:1080", "https://127.0.0.1:1080"] {
            let refused = Proxy::at(url).unwrap().connect("peer.example.org", 443).await;
            assert_eq!(refused.unwrap_err(), TunnelError::ProxyUnusable, "{url}");
        }
    }
}
