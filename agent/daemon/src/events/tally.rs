//! Which notices are published: pure, time is an argument.
//!
//! The same notice again is counted, and the count is published now and then. Different notices of
//! one pod come out of a bucket that fills slowly: a pod that is ill in many ways does not fill the
//! API server's store.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Notice, Saying};

/// How often the count of one notice is published.
const COUNT_PAUSE: Duration = Duration::from_mins(5);
/// A notice that was not said for this long is a new one; Events themselves are kept for an hour.
const FORGET: Duration = Duration::from_mins(30);
/// New notices of one pod at once.
const BURST: u32 = 20;
/// And after that, one in this time.
const REFILL: Duration = Duration::from_mins(1);
/// Notices that are remembered (L12); of more, the oldest are forgotten.
const REMEMBERED_MAX: usize = 2_000;
/// A pod's name in the name of an Event, which has 253 bytes.
const NAME_BYTES_MAX: usize = 220;

/// What to do with a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Publish it.
    Say(Saying),
    /// It is counted, or too much.
    Hold,
}

/// What was said of each pod.
#[derive(Debug, Default)]
pub(super) struct Tally {
    said: BTreeMap<Notice, Said>,
    buckets: BTreeMap<String, Bucket>,
    /// Makes names differ.
    number: u64,
}

#[derive(Debug)]
struct Said {
    name: String,
    count: u32,
    /// When it was last said.
    last: Instant,
    /// When it was last published.
    published: Instant,
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    filled: Instant,
}

impl Tally {
    /// Takes a notice in.
    pub(super) fn judge(&mut self, notice: Notice, now: Instant) -> Verdict {
        self.forget(now);
        if let Some(said) = self.said.get_mut(&notice) {
            said.count = said.count.saturating_add(1);
            said.last = now;
            if now - said.published < COUNT_PAUSE {
                return Verdict::Hold;
            }
            said.published = now;
            let (name, count) = (said.name.clone(), said.count);
            return Verdict::Say(Saying {
                notice,
                name,
                count,
            });
        }
        if !self.take_token(&notice.pod.uid, now) {
            return Verdict::Hold;
        }
        self.number += 1;
        let pod: String = notice.pod.name.chars().take(NAME_BYTES_MAX).collect();
        let since = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default();
        let name = format!("{pod}.{:x}{:x}", since.as_nanos(), self.number);
        let said = Said {
            name: name.clone(),
            count: 1,
            last: now,
            published: now,
        };
        self.said.insert(notice.clone(), said);
        Verdict::Say(Saying {
            notice,
            name,
            count: 1,
        })
    }

    /// It was not published: the next time it is a new one.
    pub(super) fn failed(&mut self, notice: &Notice) {
        self.said.remove(notice);
    }

    fn take_token(&mut self, pod_uid: &str, now: Instant) -> bool {
        let full = Bucket {
            left: BURST,
            filled: now,
        };
        let bucket = self.buckets.entry(pod_uid.to_owned()).or_insert(full);
        while bucket.left < BURST && now - bucket.filled >= REFILL {
            bucket.left += 1;
            bucket.filled += REFILL;
        }
        if bucket.left == BURST {
            bucket.filled = now;
        }
        let Some(left) = bucket.left.checked_sub(1) else {
            return false;
        };
        bucket.left = left;
        true
    }

    fn forget(&mut self, now: Instant) {
        self.said.retain(|_, said| now - said.last < FORGET);
        while self.said.len() >= REMEMBERED_MAX {
            let oldest = self.said.iter().min_by_key(|(_, said)| said.last);
            let Some(oldest) = oldest.map(|(notice, _)| notice.clone()) else {
                return;
            };
            self.said.remove(&oldest);
        }
        // A full bucket is as good as none.
        self.buckets
            .retain(|_, bucket| now - bucket.filled < REFILL * BURST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{PodName, Reason};

    fn notice(uid: &str, note: &str) -> Notice {
        Notice {
            pod: PodName {
                namespace: "n".to_owned(),
                name: "p".to_owned(),
                uid: uid.to_owned(),
            },
            reason: Reason::Lagging,
            note: note.to_owned(),
        }
    }

    fn count(verdict: &Verdict) -> Option<u32> {
        match verdict {
            Verdict::Say(saying) => Some(saying.count),
            Verdict::Hold => None,
        }
    }

    #[test]
    fn the_same_again_is_counted_and_the_count_is_said_now_and_then() {
        let (mut tally, start) = (Tally::default(), Instant::now());
        let first = tally.judge(notice("a", "x"), start);
        assert_eq!(count(&first), Some(1));
        for second in 1..100 {
            let again = tally.judge(notice("a", "x"), start + Duration::from_secs(second));
            assert_eq!(again, Verdict::Hold);
        }
        let later = tally.judge(notice("a", "x"), start + COUNT_PAUSE);
        assert_eq!(count(&later), Some(101));
        let (Verdict::Say(first), Verdict::Say(later)) = (first, later) else {
            panic!("both are said");
        };
        assert_eq!(first.name, later.name);
        let much_later = start + COUNT_PAUSE + FORGET;
        assert_eq!(count(&tally.judge(notice("a", "x"), much_later)), Some(1));
    }

    #[test]
    fn one_pod_does_not_spam_and_does_not_silence_another() {
        let (mut tally, now) = (Tally::default(), Instant::now());
        let said = (0..1_000)
            .filter(|number| tally.judge(notice("a", &number.to_string()), now) != Verdict::Hold);
        assert_eq!(said.count(), BURST as usize);
        assert_eq!(count(&tally.judge(notice("b", "x"), now)), Some(1));
        let later = now + REFILL;
        assert_eq!(count(&tally.judge(notice("a", "y"), later)), Some(1));
        assert_eq!(tally.judge(notice("a", "z"), later), Verdict::Hold);
    }

    #[test]
    fn what_was_not_published_is_new_the_next_time() {
        let (mut tally, now) = (Tally::default(), Instant::now());
        tally.judge(notice("a", "x"), now);
        tally.failed(&notice("a", "x"));
        assert_eq!(count(&tally.judge(notice("a", "x"), now)), Some(1));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut tally, now) = (Tally::default(), Instant::now());
        for number in 0..2 * REMEMBERED_MAX {
            tally.judge(notice(&number.to_string(), "x"), now);
        }
        assert!(tally.said.len() <= REMEMBERED_MAX);
    }
}
