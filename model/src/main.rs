//! tmp
#![allow(clippy::print_stdout)]
use halloo_model::bounds::*;
use halloo_model::bug::Bug;
use halloo_model::delivery::Delivery;
use halloo_model::report::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let m: u8 = a[1].parse().unwrap();
    let m2: u8 = a[2].parse().unwrap();
    let mut b = Bounds::new(m).both([m, m2]);
    b = match a[3].as_str() { "link" => b.by_link(), "peer" => b.by_peer(), _ => b };
    let f: u8 = a[4].parse().unwrap();
    let k = &a[5];
    let kinds = Faults { crash: k.contains('c'), restart: k.contains('r'), expire: k.contains('e'), cut: k.contains('x'), replay: k.contains('p'), lose_keys: k.contains('k') };
    b = b.with(f, kinds);
    b.pings = [a[6].parse().unwrap(), 0];
    if let Some(w) = a.get(7) { b.waits = w.parse().unwrap(); }
    let s = if a.get(8).is_some() { Search::Shortest } else { Search::All };
    let r = check(Delivery { bounds: b, bug: Bug::None }, s, 1);
    println!("{} states {} steps depth {} {:?}", r.states, r.steps, r.depth, r.took);
    for (n, f) in &r.findings {
        match f { Finding::Broken(s) => { println!("BROKEN {n}"); for s in s { println!("   {s}"); } } f => println!("{f:?} {n}") }
    }
}
