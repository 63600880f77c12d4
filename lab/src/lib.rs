//! A laboratory of real NATs.
//!
//! It builds small internets out of the kernel's network namespaces: homes behind routers, homes
//! behind carriers, and a server. The NATs are the kernel's own, set up in different ways; the
//! internet between them is a [`wire`] in this process, which adds delay and loss. The real
//! programs run in them, `halloo` and `rendezvous-peer`, and are measured by what they print.
//!
//! ```text
//!  anna        home router                          home router        ben
//! ┌──────┐    ┌───────────┐                        ┌───────────┐    ┌──────┐
//! │ eth0 ├────┤lan0   wan0├──TUN──┐  25 ms  ┌──TUN─┤wan0   lan0├────┤ eth0 │
//! └──────┘    └───────────┘       │         │      └───────────┘    └──────┘
//!  namespace    namespace     ┌───┴─────────┴───┐
//!                             │ wire: this      │
//!                             │ process         │   server: two addresses
//!                             └────────┬────────┘   ┌──────┐
//!                                      └───TUN──────┤ wan0 │
//!                                           0 ms    └──────┘
//! ```
//!
//! A [`kind::Kind`] is a way to be connected, named in the words of RFC 4787. [`check`] measures
//! that each NAT is what its kind says, before anything is said about programs behind it.

pub mod check;
mod dice;
pub mod events;
pub mod full;
pub mod inside;
pub mod instances;
pub mod kind;
pub mod ledger;
pub mod matrix;
mod names;
pub mod namespace;
pub mod page;
pub mod pair;
pub mod people;
pub mod plan;
pub mod program;
mod rules;
pub mod sample;
pub mod site;
pub mod soak;
pub mod speed;
pub mod storm;
pub mod stream;
mod tools;
pub mod trouble;
mod upnp;
pub mod waiting;
pub mod wire;
pub mod world;
