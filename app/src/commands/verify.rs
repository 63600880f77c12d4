//! `verify`: two people make sure that nobody stands between them.

use std::io::{IsTerminal, Write};

use halloo::Fingerprint;
use tokio::time::Instant;

use super::Context;
use crate::cli::VerifyArgs;
use crate::control::protocol::From;
use crate::fact::{Code, ContactCard, Fact};
use crate::failure::Failure;
use crate::input::Lines;
use crate::session::{Call, Session};
use crate::text::line;

/// Compares the safety code, or shows the long number.
pub(super) async fn run(cx: &Context, args: VerifyArgs) -> Result<(), Failure> {
    cx.with_node(async |session| {
        let contact = session.contact(&args.who.who).await?;
        if args.number {
            return number(cx, session, contact).await;
        }
        compare(cx, session, contact, &args).await
    })
    .await
}

async fn number(cx: &Context, session: &Session, contact: ContactCard) -> Result<(), Failure> {
    let number = session.safety_number(contact.id()?).await?;
    let name = line(&contact.name);
    cx.out.say(format!("Compare this number face to face with {name}. Both of you see the same:"));
    cx.out.fact(Fact::SafetyNumber { contact: contact.name, number })
}

async fn compare(
    cx: &Context,
    session: &Session,
    contact: ContactCard,
    args: &VerifyArgs,
) -> Result<(), Failure> {
    let who = contact.id()?;
    let name = line(&contact.name);
    let deadline = Instant::now() + args.timeout;
    let (_, events) = session.events(From::Now).await?;
    cx.out.hint(format!("waiting for {name}'s program…"));
    let code = tokio::time::timeout_at(deadline, session.safety_code(who))
        .await
        .map_err(|_| later(format!("{name}'s program did not answer in time")))??;
    match code {
        Some(code) => {
            show(cx, &code)?;
            let asked = ask(cx, &name, args);
            let answer = tokio::select! {
                answer = tokio::time::timeout_at(deadline, asked) => {
                    answer.map_err(|_| later("no digits were typed in time".to_owned()))??
                }
                ended = ended(events, &contact.name) => return Err(ended),
            };
            pass_on(session, who, &name, answer).await?;
            cx.out.hint(format!("the digits are right on this side; waiting for {name}'s…"));
        }
        None => cx.out.hint(format!("you have typed {name}'s digits before; waiting for {name}…")),
    }
    let (verified, checked) =
        tokio::time::timeout_at(deadline, session.safety_done(who))
            .await
            .map_err(|_| later(format!("{name} has not typed the digits yet; yours are kept")))??;
    cx.out.fact(Fact::Checked { contact: contact.name, checked, verified })?;
    match checked {
        true => Ok(()),
        false => Err(differs(&name)),
    }
}

/// Hears that the comparison was ended from the other side.
async fn ended(mut events: Call, contact: &str) -> Failure {
    let name = line(contact);
    while let Some(told) = events.next().await {
        match told.fact {
            Fact::Safety { contact: with, state } if with == contact => match state.as_str() {
                "mismatch" => return differs(&name),
                "cancelled" => return later(format!("{name} has put the comparison off")),
                _ => {}
            },
            _ => {}
        }
    }
    Failure::new("node-gone", "the node has stopped")
}

async fn pass_on(
    session: &Session,
    who: Fingerprint,
    name: &str,
    answer: Answer,
) -> Result<(), Failure> {
    match answer {
        Answer::Digits(digits) => session.safety_confirm(who, digits).await,
        Answer::Different => {
            session.safety_mismatch(who).await?;
            Err(differs(name))
        }
        Answer::Later => {
            session.safety_cancel(who).await?;
            Err(later("the comparison was put off".to_owned()))
        }
        Answer::Nothing => Err(later("no digits were typed".to_owned())),
    }
}

fn show(cx: &Context, code: &Code) -> Result<(), Failure> {
    if cx.out.is_json() {
        return cx.out.fact(Fact::Code(code.clone()));
    }
    let name = line(&code.contact);
    let p = cx.out.palette();
    let (left, right) = code.code.split_at(code.code.len() / 2);
    let spaced = |half: &str| half.chars().map(String::from).collect::<Vec<_>>().join(" ");
    let digits = p.bold(&format!("{}   {}", spaced(left), spaced(right)));
    let who_first = match code.read_first {
        true => format!("You read yours first, then {name} reads."),
        false => format!("{name} reads first, then you read yours."),
    };
    cx.out.raw(&format!(
        "\n  Check that you are really talking to {name}: this takes 20 seconds.\n\
         \n      {digits}\n\
         \n  Call {name}, or meet. {who_first}\n  \
         Do not send the number in this or any other chat.\n"
    ))
}

enum Answer {
    Digits(String),
    Different,
    Later,
    /// The input ended.
    Nothing,
}

/// Asks until the answer is one. Typing what the other reads out forces the comparison, so a mere
/// `y` is none.
async fn ask(cx: &Context, name: &str, args: &VerifyArgs) -> Result<Answer, Failure> {
    if let Some(digits) = &args.digits {
        return Ok(Answer::Digits(digits.clone()));
    }
    let mut lines = Lines::stdin();
    loop {
        if std::io::stdin().is_terminal() {
            let _ = write!(
                std::io::stderr(),
                "Type the six digits that {name} reads to you (d: they differ, l: later): "
            );
        }
        let Some(typed) = lines.next().await? else { return Ok(Answer::Nothing) };
        match typed.trim().to_lowercase().as_str() {
            "" => {}
            "d" | "different" => return Ok(Answer::Different),
            "l" | "later" => return Ok(Answer::Later),
            digits if halloo::TypedCode::parse(digits).is_ok() => {
                return Ok(Answer::Digits(digits.to_owned()));
            }
            "y" | "yes" | "ok" => cx.out.say(format!(
                "A yes is not enough: type the digits that {name} reads, so that they are compared."
            )),
            _ => cx.out.say("That is not six digits."),
        }
    }
}

fn later(why: String) -> Failure {
    Failure::new("not-checked-yet", why)
}

fn differs(name: &str) -> Failure {
    let why = format!("the codes of {name} and this side differ: somebody may stand between you");
    Failure::new("safety-mismatch", why)
}
