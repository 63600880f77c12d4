//! The numbers as a page for people. It needs no script and fetches nothing.

use std::fmt::Write;

use super::sections::{Section, sections};
use super::status::{State, Status};

/// How often the page loads itself again, in seconds.
const REFRESH: u32 = 5;

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem;\
color:#1b1b1b;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1rem;margin:1.5rem 0 .25rem}\
table{border-collapse:collapse;width:100%}td{padding:.1rem .5rem .1rem 0;vertical-align:top}\
td+td{text-align:right;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}\
tr+tr td{border-top:1px solid #ddd}p.draining{color:#a00}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}tr+tr td{border-color:#333}}";

/// The page. Its style carries `nonce`.
pub(super) fn html(status: &Status, nonce: &str) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"refresh\" content=\"{REFRESH}\">\
         <title>rendezvous-peer</title><style nonce=\"{nonce}\">{STYLE}</style></head>\n<body>\
         <h1>rendezvous-peer {}</h1>\n",
        escaped(&status.version)
    );
    out += match status.state {
        State::Accepting => "<p>It takes connections.</p>\n",
        State::Draining => "<p class=\"draining\">It is about to stop.</p>\n",
    };
    for Section { title, rows } in sections(status) {
        let _ = write!(out, "<h2>{}</h2>\n<table>\n", escaped(title));
        for (name, value) in rows {
            let (name, value) = (escaped(&name), escaped(&value));
            let _ = writeln!(out, "<tr><td>{name}</td><td>{value}</td></tr>");
        }
        out += "</table>\n";
    }
    out + "<p>These numbers are about nobody in particular; the peer keeps no others.</p>\n\
           </body></html>\n"
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::admin::status::tests::sample;

    #[test]
    fn what_is_shown_cannot_become_markup() {
        let mut status = sample();
        status.facts.addresses = vec!["<script>'\"&".into()];
        let page = html(&status, "n0nce");
        assert!(page.contains("&lt;script&gt;&#39;&quot;&amp;"));
        assert!(!page.contains("<script"));
        assert!(page.contains("<style nonce=\"n0nce\">"));
        assert!(!page.contains("http://") && !page.contains("https://"), "it fetches nothing");
    }
}
