//! How groups fill. Whatever is in a group, it costs the database some tenths of a millisecond: a statement, a flush, a change of
//! process. So a group that is not full waits for those who are about to come, and never for long: the rule is [`until`].
use crate::clock::DatabaseClock;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

/// In a group of so many an act costs little more than in a larger one.
const FULL: usize = 64;
/// Whom the last commit has answered is waited for as long as that commit took, and no longer than this.
const BACK: i64 = 5_000;
/// No shorter than this: with a quick disk a commit takes less time than an answer and the next question.
const BACK_AT_LEAST: i64 = 500;
/// Nor than this for each of them: they are answered, and ask again, one after the other.
const BACK_EACH: i64 = 100;
/// A commit that takes longer than this is not waited for.
const LONG: i64 = 10_000;

/// The commit that is under way, or the last one; times in microseconds of the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beat {
    pub(crate) acts: usize,
    pub(crate) begun: i64,
    pub(crate) ended: Option<i64>,
}

/// Until when a group of `waiting` waits for more at most; `None`: it goes now. `before`: so many waited already when the last
/// commit ended.
///
/// What is looked up while a commit is under way cannot be committed before that one has ended; so it loses next to nothing by
/// waiting for it. Afterwards those whom it has answered may come back, and are one group with those who waited. Who is alone
/// waits for nobody. Nobody waits beyond `latest`, whatever else is committed meanwhile.
fn until(waiting: usize, before: usize, beat: Beat, latest: i64) -> Option<i64> {
    if waiting >= FULL || beat.acts < 2 {
        return None;
    }
    let end = match beat.ended {
        None => Some(beat.begun + LONG),
        Some(_) if waiting >= before + beat.acts => None,
        Some(ended) => {
            let each = i64::try_from(beat.acts).unwrap_or(BACK).saturating_mul(BACK_EACH);
            Some(ended + (ended - beat.begun).max(each).clamp(BACK_AT_LEAST, BACK))
        }
    };
    end.map(|end| end.min(latest))
}

/// Takes what is there and what becomes ready in this moment: whoever a lookup has answered commits at once, but one after the
/// other. How many; none: nobody can come any more.
pub(crate) async fn ready<T>(waiting: &mut mpsc::Receiver<T>, into: &mut Vec<T>, most: usize) -> usize {
    if waiting.recv_many(into, 1).await == 0 {
        return 0;
    }
    let (mut before, most) = (0, most.saturating_sub(1));
    while waiting.len() > before && waiting.len() < most.min(FULL) || before == 0 {
        before = waiting.len().max(1);
        yield_now().await;
    }
    into.extend(std::iter::from_fn(|| waiting.try_recv().ok()).take(most));
    into.len()
}

/// As [`ready`], for no longer than `limit`; `None`: nobody came. Whoever was taken when the time was over is not left behind.
pub(crate) async fn ready_within<T>(
    limit: Duration,
    waiting: &mut mpsc::Receiver<T>,
    into: &mut Vec<T>,
    most: usize,
) -> Option<usize> {
    match timeout(limit, ready(waiting, into, most)).await {
        Ok(count) => Some(count),
        Err(_) if into.is_empty() => None,
        Err(_) => Some(into.len()),
    }
}

/// As [`ready`], and whoever comes while it is worth it.
pub(crate) async fn gather<T>(
    waiting: &mut mpsc::Receiver<T>,
    into: &mut Vec<T>,
    most: usize,
    beat: &mut watch::Receiver<Option<Beat>>,
    clock: &DatabaseClock,
) -> usize {
    if ready(waiting, into, most).await == 0 {
        return 0;
    }
    // By the first of them: commits that follow one upon the other do not put it off.
    let (mut before, latest) = (0, clock.mono_us() + LONG + BACK);
    while into.len() < most {
        let Some(seen) = *beat.borrow_and_update() else { break };
        if seen.ended.is_none() {
            before = into.len();
        }
        let left = until(into.len(), before, seen, latest).and_then(|end| u64::try_from(end - clock.mono_us()).ok());
        let Some(left) = left.filter(|left| *left > 0) else { break };
        let room = most - into.len();
        tokio::select! {
            came = waiting.recv_many(into, room) => if came == 0 { break },
            changed = beat.changed() => if changed.is_err() { break },
            () = sleep(Duration::from_micros(left)) => break,
        }
    }
    into.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::TimeSource;
    use portcullis_wire::Time;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

    const LATE: i64 = i64::MAX;

    #[test]
    fn who_is_alone_or_many_waits_for_nobody() {
        let begun = 100;
        for ended in [None, Some(begun + 1)] {
            assert_eq!(until(1, 0, Beat { acts: 1, begun, ended }, LATE), None);
            assert_eq!(until(FULL, 0, Beat { acts: 9, begun, ended }, LATE), None);
            assert!(until(1, 0, Beat { acts: 2, begun, ended }, LATE).is_some());
        }
    }

    #[test]
    fn a_commit_is_waited_for_and_then_those_whom_it_answered() {
        let begun = 100_000;
        let under_way = Beat { acts: 5, begun, ended: None };
        assert_eq!(until(3, 0, under_way, LATE), Some(begun + LONG));
        let after = |took| Beat { ended: Some(begun + took), ..under_way };
        assert_eq!(until(3, 3, after(1_000), LATE), Some(begun + 2_000));
        assert_eq!(until(7, 3, after(1_000), LATE), Some(begun + 2_000));
        assert_eq!(until(8, 3, after(1_000), LATE), None);
        assert_eq!(until(5, 0, after(1_000), LATE), None);
        assert_eq!(until(3, 3, after(100_000), LATE), Some(begun + 100_000 + BACK));
        // A quick one leaves time enough for an answer and a question.
        assert_eq!(until(3, 3, after(80), LATE), Some(begun + 80 + BACK_AT_LEAST));
        // Many need more of it, up to a point.
        let many = |acts| Beat { acts, ..after(1_000) };
        assert_eq!(until(3, 3, many(30), LATE), Some(begun + 1_000 + 3_000));
        assert_eq!(until(3, 3, many(usize::MAX - 3), LATE), Some(begun + 1_000 + BACK));
    }

    #[tokio::test]
    async fn what_is_ready_goes_together() {
        let (ask, mut waiting) = mpsc::channel(100);
        for n in 0..40 {
            let ask = ask.clone();
            tokio::spawn(async move { ask.send(n).await });
        }
        let clock = DatabaseClock::new(TimeSource::Given(Arc::new(|| Time(0))));
        let (mut some, (_beat, mut beats)) = (Vec::new(), watch::channel(None));
        assert_eq!(gather(&mut waiting, &mut some, 7, &mut beats, &clock).await, 7);
        assert_eq!(ready(&mut waiting, &mut some, 100).await, 40);
        drop(ask);
        assert_eq!(ready(&mut waiting, &mut some, 100).await, 0);
    }

    #[test]
    fn a_beat_that_never_rests_puts_nobody_off() {
        let (came, acts) = (1_000_000, 5);
        let latest = came + LONG + BACK;
        for now in (came..came + 100_000).step_by(500) {
            // Another commit begins, or has ended, at every moment.
            for ended in [None, Some(now)] {
                for before in [0, 3] {
                    let end = until(3, before, Beat { acts, begun: now, ended }, latest).unwrap();
                    assert!(end <= latest, "{now} {ended:?}: {end}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_waiting_group_goes_while_other_commits_follow_one_upon_the_other() {
        let now = Arc::new(AtomicI64::new(1_000));
        let clock = DatabaseClock::new(TimeSource::Given({
            let now = now.clone();
            Arc::new(move || Time(now.load(Relaxed)))
        }));
        let (beat, mut beats) = watch::channel(Some(Beat { acts: 5, begun: 1_000, ended: None }));
        let (ask, mut waiting) = mpsc::channel(9);
        ask.send(()).await.unwrap();
        let others = tokio::spawn({
            let now = now.clone();
            async move {
                loop {
                    let begun = now.fetch_add(1, Relaxed);
                    beat.send_replace(Some(Beat { acts: 5, begun, ended: None }));
                    yield_now().await;
                }
            }
        });
        let mut some = Vec::new();
        let gathered = gather(&mut waiting, &mut some, 9, &mut beats, &clock);
        assert_eq!(timeout(Duration::from_secs(20), gathered).await, Ok(1), "it waits as long as others commit");
        others.abort();
    }

    #[tokio::test]
    async fn who_is_taken_when_the_time_is_over_is_not_left_behind() {
        let (ask, mut waiting) = mpsc::channel(9);
        let mut some: Vec<u8> = Vec::new();
        assert_eq!(ready_within(Duration::ZERO, &mut waiting, &mut some, 9).await, None);
        ask.send(1).await.unwrap();
        // It is taken, and the time is over before it is looked who else is ready.
        assert_eq!(ready_within(Duration::ZERO, &mut waiting, &mut some, 9).await, Some(1));
        assert_eq!(some, [1]);
    }
}
