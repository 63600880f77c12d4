//! What a rendezvous peer holds in memory, and what it does not.

use halloo::Fingerprint;
use rendezvous_peer::RunningPeer;
use rendezvous_peer::core::RowView;

use super::person::Person;
use super::story::Story;
use super::untrue;
use crate::failure::Failure;
use crate::human::bytes;

/// Opens the peer's memory and looks for what must not be there.
pub(super) fn who_saw_what(
    story: &mut Story,
    peer: &RunningPeer,
    anna: &Person,
    ben: Fingerprint,
    words: &str,
) -> Result<(), Failure> {
    story.chapter(
        "Who saw what",
        "This is everything that the peer's memory holds about Ben, as somebody would find it who \
         broke into the machine at this moment.",
    )?;
    let rows = peer.inspect();
    let row = rows
        .iter()
        .find(|row| row.fingerprint == ben)
        .ok_or_else(|| untrue("row-of-ben", "the peer has forgotten Ben"))?;
    story.line(&format!("his fingerprint    {}…", row.fingerprint.short()))?;
    story.line(&format!(
        "his address        {}",
        match row.observed {
            Some(addr) => addr.to_string(),
            None => "none: he is away".to_owned(),
        }
    ))?;
    story.line(&format!("his public keys    {}, signed by him", bytes(row.bundle.len() as u64)))?;
    story.line(&format!("his permits        {}, hashes only", row.capabilities.len()))?;
    story.line(&format!("his sealed mail    {}", row.envelopes.len()))?;
    for envelope in &row.envelopes {
        let first: Vec<String> =
            envelope.bytes.iter().take(16).map(|b| format!("{b:02x}")).collect();
        let size = bytes(envelope.bytes.len() as u64);
        story.line(&format!("                   {size}: {} …", first.join(" ")))?;
    }
    // Anna's node may have left a receipt for what Ben said last beside her message.
    let sizes: Vec<usize> = row.envelopes.iter().map(|envelope| envelope.bytes.len()).collect();
    story.check(
        "sealed-mail",
        matches!(sizes.as_slice(), [a] | [a, _] if sizes.iter().all(|size| size == a)),
        "sealed mail, of a size that many messages have",
    )?;
    let memory = bytes_of(row);
    let everything = everything(peer);
    story.check(
        "search-works",
        contains(&everything, ben.as_bytes()),
        "a search of the memory finds Ben's fingerprint, because mail is for somebody",
    )?;
    let text = contains(&everything, words.as_bytes())
        || words.split(' ').any(|word| word.len() > 4 && contains(&memory, word.as_bytes()));
    story.check("no-plaintext", !text, "it does not find Anna's words")?;
    let me = anna.me();
    let sender = contains(&memory, me.as_bytes()) || contains(&memory, me.to_string().as_bytes());
    story.check("no-sender", !sender, "it does not find who the mail is from")
}

/// Every byte that the peer's table holds.
pub(super) fn everything(peer: &RunningPeer) -> Vec<u8> {
    peer.inspect()
        .iter()
        .flat_map(|row| {
            let mut all = row.fingerprint.as_bytes().to_vec();
            all.extend(bytes_of(row));
            all
        })
        .collect()
}

/// What the peer holds for one person, beside the fingerprint that names the row.
fn bytes_of(row: &RowView) -> Vec<u8> {
    let mut all = row.bundle.clone();
    for (id, card) in &row.capabilities {
        all.extend_from_slice(&id.0);
        all.extend_from_slice(card);
    }
    for envelope in &row.envelopes {
        all.extend_from_slice(&envelope.bytes);
    }
    all
}

/// Whether bytes hold other bytes.
pub(super) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
