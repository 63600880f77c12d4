//! `init` and `id`.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use halloo::{Home, Invite, PeerAddress};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

use super::Context;
use crate::cli::{IdArgs, InitArgs};
use crate::fact::Fact;
use crate::failure::Failure;
use crate::host::{self, Access};
use crate::output::Palette;
use crate::session::Session;
use crate::tell;

/// Makes an identity, or shows the one that is there.
pub(super) async fn init(cx: &Context, args: &InitArgs) -> Result<(), Failure> {
    if let Some(invite) = &args.invite
        && Home::exists(&cx.home)
        && let Access::Running(client) =
            cx.interruptible(host::access(&cx.home, &cx.passphrase)).await?
    {
        return give_invite(cx, args, &Session::Remote(client), invite).await;
    }
    let peer = match (&args.peer, Home::exists(&cx.home)) {
        (Some(peer), _) => Some(peer.clone()),
        (None, true) => None,
        (None, false) => Some(ask_for_peer()?),
    };
    let home = match (args.passphrase, Home::exists(&cx.home)) {
        (true, true) if !Home::is_locked(&cx.home) => {
            let why = "the identity that is here has a home that is not locked";
            return Err(Failure::new("home-not-locked", why));
        }
        (true, false) => {
            let key = cx.interruptible(cx.passphrase.choose()).await?;
            cx.ours(host::access_with(&cx.home, Some(&key)).await?).await?
        }
        _ => cx.home_with(&cx.passphrase).await?,
    };
    if let (Some(peer), Some(address)) = (&peer, home.address()?)
        && peer.host != address.peer
    {
        let why = format!("this identity lives at {} already: {address}", address.peer);
        return Err(Failure::new("already-set-up", why));
    }
    home.set_up(peer.as_ref().map(|p| (&p.host, p.key)), args.name.as_deref())?;
    if let Some(invite) = &args.invite {
        home.set_invite(invite)?;
    }
    let address = home.address()?.ok_or_else(no_peer)?;
    cx.out.fact(Fact::Identity(tell::identity(&address)))?;
    cx.out.hint("This is your address: give it to others, or show it with: halloo id");
    cx.out.hint("next: halloo listen, or: halloo add THEIR-ADDRESS --name NAME");
    Ok(())
}

/// Gives an invite to the node that runs. What else `init` does needs the home for itself.
async fn give_invite(
    cx: &Context,
    args: &InitArgs,
    session: &Session,
    invite: &Invite,
) -> Result<(), Failure> {
    let running = session.status().await?;
    let moves = args.peer.as_ref().is_some_and(|p| p.host.to_string() != running.identity.peer);
    if moves || args.name.is_some() || args.passphrase {
        return Err(host::already_running(running.hosted_by, Some(running.pid)));
    }
    session.set_invite(invite).await?;
    cx.out.fact(Fact::Identity(running.identity))?;
    cx.out.hint("The node that runs has the invite, and asks its peer again");
    Ok(())
}

/// Shows the own address.
pub(super) async fn id(cx: &Context, args: &IdArgs) -> Result<(), Failure> {
    require(&cx.home)?;
    let identity = match cx.interruptible(host::access(&cx.home, &cx.passphrase)).await? {
        Access::Ours(home) => tell::identity(&home.address()?.ok_or_else(no_peer)?),
        Access::Running(client) => Session::Remote(client).status().await?.identity,
    };
    let uri = identity.uri.clone();
    cx.out.fact(Fact::Identity(identity))?;
    if !cx.out.is_json() && !args.no_qr {
        cx.out.raw("")?;
        cx.out.raw(&qr(&uri, cx.out.palette())?)?;
        cx.out.raw(&uri)?;
    }
    Ok(())
}

/// Without an identity a command would make one that nobody knows of.
pub(super) fn require(home: &Path) -> Result<(), Failure> {
    match Home::exists(home) {
        true => Ok(()),
        false => {
            Err(Failure::new("no-identity", format!("there is no identity in {}", home.display())))
        }
    }
}

fn no_peer() -> Failure {
    Failure::new("no-peer", "an address needs a rendezvous peer, and none is named")
}

fn ask_for_peer() -> Result<PeerAddress, Failure> {
    let mut stdin = std::io::stdin().lock();
    if !stdin.is_terminal() {
        return Err(no_peer());
    }
    let _ =
        write!(std::io::stderr(), "The rendezvous peer where you can be reached (host[:port]): ");
    let mut line = String::new();
    stdin.read_line(&mut line)?;
    line.trim().parse().map_err(|e| Failure::new("peer-address", format!("{e}")))
}

/// A QR code of half blocks, two modules in each character.
fn qr(text: &str, p: Palette) -> Result<String, Failure> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).map_err(|e| {
        Failure::new("internal", format!("the address does not fit a QR code: {e}"))
    })?;
    let mut render = code.render::<Dense1x2>();
    if p.is_on() {
        let blocks = render.build();
        // Black on white, whatever the terminal's colours are.
        let lines = blocks.lines().map(|l| format!("\x1b[30;107m{l}\x1b[0m"));
        return Ok(lines.collect::<Vec<_>>().join("\n"));
    }
    // Most terminals are dark: the block's light is the paper.
    Ok(render.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_longest_usual_address_fits_a_terminal() {
        let fingerprint = "k7m2hq9a".repeat(7)[..52].to_owned();
        let uri = format!("halloo://peer.example.org/{fingerprint}?peer={fingerprint}");
        let code = qr(&uri, Palette::PLAIN).unwrap();
        let width = code.lines().map(|l| l.chars().count()).max().unwrap();
        assert!(width <= 80, "{width} columns");
        assert!(code.lines().count() <= 32, "{} lines", code.lines().count());
    }
}
