//! `doctor`: what works in this network, what does not, and what to do.

use super::{Context, GET_ONLINE, key_changed};
use crate::checkup::KEY;
use crate::cli::DoctorArgs;
use crate::fact::{Fact, Summary};
use crate::failure::Failure;

/// Checks the network, and the path to a contact when one is named.
pub(super) async fn run(cx: &Context, args: DoctorArgs) -> Result<(), Failure> {
    cx.with_node(async |session| {
        let who = match &args.who {
            Some(who) => Some(session.contact(who).await?.id()?),
            None => None,
        };
        cx.out.progress("looking at the network…");
        session.online(GET_ONLINE).await?;
        let (mut checks, mut failed, mut our_key_changed) = (0, 0, false);
        let ready = session
            .doctor(who, |line| {
                if let Fact::Check(check) = &line.fact {
                    checks += 1;
                    failed += u32::from(check.ok == Some(false));
                    let is_own = check.figures.get("own").is_some_and(|own| own == true);
                    our_key_changed |= check.check == KEY && is_own;
                }
                cx.out.progress_end();
                cx.out.line(&line)
            })
            .await;
        cx.out.progress_end();
        let online = ready?.online;
        cx.out.fact(Fact::Summary(Summary::Doctor { online, checks, failed }))?;
        match (online, our_key_changed) {
            (true, _) => Ok(()),
            (false, true) => Err(key_changed("this node is not registered there")),
            (false, false) => {
                let why = "this node is not registered at its rendezvous peer";
                Err(Failure::new("not-online", why))
            }
        }
    })
    .await
}
