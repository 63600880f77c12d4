//! `perf`.

use super::{Context, GET_ONLINE};
use crate::cli::PerfArgs;
use crate::control::protocol::Direction;
use crate::fact::{Fact, Summary};
use crate::failure::Failure;
use crate::human;
use crate::perf::MAX_DURATION;

/// Measures throughput.
pub(super) async fn run(cx: &Context, args: PerfArgs) -> Result<(), Failure> {
    if args.duration > MAX_DURATION {
        return Err(Failure::new("usage", "a measurement takes at most 60s"));
    }
    let duration_ms = u32::try_from(args.duration.as_millis()).unwrap_or(u32::MAX);
    let direction = if args.reverse { Direction::Down } else { Direction::Up };
    cx.with_node(async |session| {
        let who = session.contact(&args.who).await?.id()?;
        session.online(GET_ONLINE).await?;
        let result = session
            .perf(who, direction, duration_ms, |so_far| {
                let moved = human::bytes(so_far.bytes);
                cx.out.progress(&format!(
                    "{:>5.1} s  {moved:>10}  {:.1} MiB/s",
                    so_far.seconds, so_far.mib_per_s
                ));
            })
            .await;
        cx.out.progress_end();
        cx.out.fact(Fact::Summary(Summary::Perf(result?)))
    })
    .await
}
