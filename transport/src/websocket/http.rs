//! The little HTTP that stands before a tunnel.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_tungstenite::tungstenite::handshake::server::{Request, create_response, write_response};
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::{PATH, SUBPROTOCOL};

/// Longest head of a request or an answer. Browsers and proxies stay below 2 KB without cookies.
const MAX_HEAD: usize = 8 * 1024;
/// Header fields in a head.
const MAX_FIELDS: usize = 64;
/// What a person with a browser sees.
const PAGE: &str = "This is a Halloo rendezvous peer.\n";

/// What a client of a peer gets.
pub(super) enum Answer {
    /// A tunnel, after these bytes.
    Tunnel(Vec<u8>),
    /// A page or an error, after which the connection is closed.
    Page(Vec<u8>),
}

/// Reads until the end of a head, and returns it with what came behind it. Not cancel safe.
pub(super) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::with_capacity(1024);
    loop {
        let searched = head.len().saturating_sub(3);
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(at) = head[searched..].windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = head.split_off(searched + at + 4);
            return Ok((head, rest));
        }
        if head.len() >= MAX_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// The status in the head of an answer.
pub(super) fn status(head: &[u8]) -> Option<u16> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    answer.parse(head).ok()?;
    answer.code
}

/// What a client of a peer gets for the request with this head.
pub(super) fn answer(head: &[u8]) -> Answer {
    let Some(request) = request(head) else {
        return page("400 Bad Request", "Not understood.\n");
    };
    match request.uri().path() {
        "/" if !request.headers().contains_key("upgrade") => page("200 OK", PAGE),
        PATH => tunnel(&request).map(Answer::Tunnel).unwrap_or_else(|| {
            page("426 Upgrade Required", "This takes WebSockets of Halloo's.\n")
        }),
        _ => page("404 Not Found", "Nothing here.\n"),
    }
}

fn tunnel(request: &Request) -> Option<Vec<u8>> {
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let offers = |value: &HeaderValue| {
        value.to_str().is_ok_and(|list| list.split(',').any(|p| p.trim() == SUBPROTOCOL))
    };
    if !offered.iter().any(offers) {
        return None;
    }
    let mut response = create_response(request).ok()?;
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    let mut bytes = Vec::new();
    write_response(&mut bytes, &response).ok()?;
    Some(bytes)
}

fn request(head: &[u8]) -> Option<Request> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    if !parsed.parse(head).ok()?.is_complete() || parsed.version? != 1 {
        return None;
    }
    let mut headers = HeaderMap::new();
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    *request.uri_mut() = parsed.path?.parse::<Uri>().ok()?;
    *request.headers_mut() = headers;
    (request.method() == Method::GET).then_some(request)
}

fn page(status: &str, body: &str) -> Answer {
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    Answer::Page(text.into_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shown(head: &str) -> String {
        match answer(head.as_bytes()) {
            Answer::Tunnel(bytes) | Answer::Page(bytes) => String::from_utf8(bytes).unwrap(),
        }
    }

    fn upgrade(path: &str, protocol: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: peer.example.org\r\nConnection: keep-alive, Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        )
    }

    #[test]
    fn an_upgrade_is_accepted_with_the_key_of_the_rfc() {
        let answer = shown(&upgrade("/halloo", "other.1, halloo-peer.2"));
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        // RFC 6455, section 1.3.
        assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
        assert!(answer.contains("sec-websocket-protocol: halloo-peer.2\r\n"), "{answer}");
    }

    #[test]
    fn everything_else_gets_a_short_answer() {
        let plain = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        for (head, status) in [
            (plain("/"), "200"),
            (plain("/halloo"), "426"),
            (plain("/admin"), "404"),
            (upgrade("/halloo", "halloo-peer.1"), "426"),
            (upgrade("/", "halloo-peer.2"), "404"),
            ("POST / HTTP/1.1\r\n\r\n".to_owned(), "400"),
            ("GET / HTTP/1.0\r\n\r\n".to_owned(), "400"),
            ("\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), "400"),
        ] {
            let answer = shown(&head);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
            assert!(answer.len() < 256);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_head_gets_an_answer(head in proptest::collection::vec(0u8.., 0..300)) {
            let (Answer::Tunnel(bytes) | Answer::Page(bytes)) = answer(&head);
            assert!(bytes.starts_with(b"HTTP/1.1 "));
            assert!(status(&bytes).is_some());
        }
    }

    #[tokio::test]
    async fn a_head_ends_with_an_empty_line_however_it_is_cut() {
        let bytes = b"HTTP/1.1 200 Fine\r\nvia: 1.1 proxy\r\n\r\nbehind";
        for cut in 1..bytes.len() {
            let (mut ours, mut theirs) = tokio::io::duplex(cut);
            let writing = tokio::spawn(async move {
                tokio::io::AsyncWriteExt::write_all(&mut theirs, bytes).await
            });
            let (head, rest) = read_head(&mut ours).await.unwrap();
            assert_eq!(status(&head), Some(200));
            assert!(bytes.ends_with(b"behind") && b"behind".starts_with(&rest[..]));
            drop(ours);
            let _ = writing.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_head_without_end_is_given_up() {
        let mut endless = tokio::io::repeat(b'a');
        assert_eq!(read_head(&mut endless).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
