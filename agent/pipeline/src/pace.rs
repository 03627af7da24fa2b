//! When one database is looked at, and when its pending pages become an L0 file.
//!
//! Pure: time is an argument. The rules:
//!
//! - Nothing happens without a hint: an idle database has no timer.
//! - A hint is only a hint: the commit may be published a moment after the write that we were told
//!   of, so looks are repeated with growing pauses until they were quiet for a while.
//! - A commit after a pause is cut at once, and so is what came after it as soon as the writer
//!   pauses again; a bucket of tokens bounds how many files that may give.
//! - Under load, or without tokens, one L0 file per `sync_interval` is cut, while the WAL is read
//!   and rolled every [`STEP`]; of a writer that writes little, every [`CALM_STEP`], and less often
//!   while nothing may be cut.
//! - Whether a writer paused is seen by a look just before the cut.
//! - A file that nothing followed is made durable after [`SETTLE`], unless it was shipped.
//! - After a failure, or a cut that was in the app's way, no file is cut for a while.

use std::time::{Duration, Instant};

use sqlrep_capture::Cadence;

/// Pause between looks while commits keep coming (measured, see the README of capture).
pub(crate) const STEP: Duration = Cadence::BUSY;

/// The same while they bring less than [`FEW_BYTES`] each: the WAL hardly grows, and nothing is due before
/// the writer pauses, which the look at the end of that time sees.
const CALM_STEP: Duration = PAUSE;

/// A few commits in the WAL.
const FEW_BYTES: u64 = 256 << 10;

/// After so many reads in a row of so little a writer is calm. One that writes much has moments in which a
/// read brings little, too, and what matters to its WAL, the end of a checkpoint, is in just those.
const CALM_READS: u32 = 16;

/// How often a calm writer is looked at while no file may be cut: often enough that the WAL of one that
/// begins to write much stays short.
const DEFERRED_STEP: Duration = CALM_STEP.saturating_mul(2);

/// Pause between looks at a calm writer after a commit that came after a pause, and the longest before the
/// last of them, which tells the session that its writer paused ([`Cadence::CALM`]). Discovery holds a hint
/// back for so long, or for twice as long from a writer that never pauses: later commits are hinted at.
const CALM_NEXT: Duration = Duration::from_millis(64);

/// A hint so soon after a commit is mostly of that commit.
const ECHO: Duration = Duration::from_millis(100);

/// First pause after a quiet look that followed a hint; it doubles.
const LOOK_AGAIN_MIN: Duration = Cadence::LOOK;

/// Looks end when the pause has grown past this and nobody is in a transaction: the commit that
/// caused the hint was published or rolled back, and the next write gives a new hint.
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(512);

/// Pause between attempts after an error.
const RETRY: Duration = Duration::from_millis(500);

/// A writer that was silent for this long has paused: what it wrote is worth a file now. Far
/// longer than the gap between the commits of a busy writer, far shorter than a person notices.
const PAUSE: Duration = Duration::from_millis(40);

/// Early files per `sync_interval` that a steady trickle of commits may cost.
const EARLY_PER_INTERVAL: u32 = 2;

/// Early files that may come in one go after a calm time.
const EARLY_BURST: u32 = 16;

/// How long the newest file may wait to be shipped, or for the next one, before it is made durable in the
/// spool: longer than a share that is well needs, and with all databases of a node at once.
const SETTLE: Duration = Duration::from_secs(10);

/// The clock of one capture thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    sync_interval: Duration,
    last_cut: Option<Instant>,
    last_new: Option<Instant>,
    /// Whether a look since then found nothing.
    was_quiet: bool,
    next_look: Option<Instant>,
    pause: Duration,
    /// The pause between looks that find something.
    step: Duration,
    /// Reads in a row that brought little.
    few_reads: u32,
    pending: Option<Pending>,
    /// When the bucket of early cuts is full again (a "theoretical arrival time").
    bucket_full_at: Option<Instant>,
    /// No file is cut before.
    not_before: Option<Instant>,
    /// When the newest file is to be made durable.
    settle_at: Option<Instant>,
    /// Whether there was something to do since the last rest.
    is_busy: bool,
}

/// Pages that are read and not cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    /// They came after a pause.
    AfterPause,
    /// They came while the writer was busy.
    Busy,
}

impl Pace {
    pub(crate) fn new(sync_interval: Duration) -> Self {
        Self {
            sync_interval,
            last_cut: None,
            last_new: None,
            was_quiet: true,
            next_look: None,
            pause: LOOK_AGAIN_MIN,
            step: STEP,
            few_reads: 0,
            pending: None,
            bucket_full_at: None,
            not_before: None,
            settle_at: None,
            is_busy: true,
        }
    }

    /// Something may have been written.
    pub(crate) fn touched(&mut self, now: Instant) {
        let is_echo = || self.last_new.is_some_and(|at| now < at + ECHO);
        let (soon, pause) = match self.pending {
            Some(_) => (self.next_while_pending(now), self.first_pause()),
            None if self.is_calm() && is_echo() => (now, CALM_STEP),
            None => (now, LOOK_AGAIN_MIN),
        };
        self.pause = pause;
        self.next_look = Some(self.next_look.map_or(soon, |at| at.min(soon)));
        self.is_busy = true;
    }

    /// A look found nothing new; `pause` is what the session asks for while its writer is busy.
    pub(crate) fn quiet(&mut self, now: Instant, pause: Duration) {
        let longest = if !self.is_calm() {
            LOOK_AGAIN_MAX
        } else if self.next_cut(now).is_some() {
            Duration::ZERO // should it write again before that there is a hint
        } else {
            CALM_NEXT
        };
        self.found_nothing(now, pause, longest);
    }

    /// A look found somebody in the middle of a transaction. Its end is written to memory that is
    /// shared, of which no hint tells, and may come long after the last write to a file: after the
    /// fsync of a disk that is busy. So it is looked for as long as that takes.
    pub(crate) fn uncommitted(&mut self, now: Instant, pause: Duration) {
        self.pause = self.pause.min(LOOK_AGAIN_MAX);
        self.found_nothing(now, pause, LOOK_AGAIN_MAX);
        self.pause = self.pause.min(LOOK_AGAIN_MAX);
    }

    /// New commits were read that take so much of the WAL; `pause` is what the session asks for before the next look.
    pub(crate) fn stepped(&mut self, now: Instant, bytes: u64, pause: Duration) {
        let fresh = if self.has_paused(now) {
            Pending::AfterPause
        } else {
            Pending::Busy
        };
        self.pending = Some(self.pending.unwrap_or(fresh));
        self.last_new = Some(now);
        self.was_quiet = false;
        self.few_reads = if bytes < FEW_BYTES {
            self.few_reads.saturating_add(1)
        } else {
            0
        };
        self.step = match fresh {
            _ if !self.is_calm() => STEP,
            Pending::AfterPause => CALM_NEXT,
            Pending::Busy => CALM_STEP,
        };
        self.pause = self.first_pause();
        let awaited = pause < STEP;
        self.next_look = Some(if awaited {
            now + pause
        } else {
            self.next_while_pending(now)
        });
        self.is_busy = true;
    }

    /// An L0 file was cut.
    pub(crate) fn cut(&mut self, now: Instant) {
        if self
            .last_cut
            .is_some_and(|at| now < at + self.sync_interval)
        {
            let from = self.bucket_full_at.map_or(now, |at| at.max(now));
            self.bucket_full_at = Some(from + self.token());
        }
        self.pending = None;
        self.last_cut = Some(now);
        self.is_busy = true;
        self.wrote(now);
    }

    /// A file was written to the spool.
    pub(crate) fn wrote(&mut self, now: Instant) {
        self.settle_at = Some(now + SETTLE);
    }

    /// Whether the newest file is to be made durable.
    pub(crate) fn settle_due(&self, now: Instant) -> bool {
        self.settle_at.is_some_and(|at| at <= now)
    }

    /// The newest file is durable, or shipped.
    pub(crate) fn settled(&mut self) {
        self.settle_at = None;
    }

    /// Whether looks and cuts have come to an end, once for each time: what they needed can be given
    /// back. A session cannot know by its own looks, for not all of them count as quiet, and a cut may
    /// come after the last of them.
    pub(crate) fn comes_to_rest(&mut self) -> bool {
        let rests = self.next_look.is_none() && self.pending.is_none();
        rests && std::mem::take(&mut self.is_busy)
    }

    /// Pages are read, by a look or beside one: while a file was cut, or for a checkpoint of ours.
    /// Should nobody write after that, no look tells of them.
    pub(crate) fn holds(&mut self, now: Instant) {
        if self.pending.is_none() {
            self.pending = Some(Pending::Busy);
            self.last_new = Some(now);
        }
    }

    /// No file is cut before: the app is left in peace.
    pub(crate) fn rest_until(&mut self, at: Instant) {
        self.not_before = Some(at);
    }

    /// A stage failed: try again in a while.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.next_look = Some(now + RETRY);
        self.not_before = Some(now + RETRY);
        self.settle_at = self.settle_at.map(|at| at.max(now + RETRY));
    }

    /// Whether the pending pages are due.
    pub(crate) fn cut_due(&self, now: Instant) -> bool {
        self.cut_at().is_some_and(|at| at <= now)
    }

    /// Whether a look is due.
    pub(crate) fn look_due(&self, now: Instant) -> bool {
        self.next_look.is_some_and(|at| at <= now)
    }

    /// Until when the thread may sleep; `None` is until somebody calls.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let times = [self.next_look, self.cut_at(), self.settle_at];
        times.into_iter().flatten().min()
    }

    fn is_calm(&self) -> bool {
        self.few_reads >= CALM_READS
    }

    /// Looks end with one that has waited for `longest`, but for the one before a cut.
    fn found_nothing(&mut self, now: Instant, pause: Duration, longest: Duration) {
        self.was_quiet = true;
        if pause < STEP {
            // It awaits a checkpoint of the writer that is over in a moment: do not miss it.
            self.next_look = Some(now + pause);
            return;
        }
        let again = (self.pause <= longest).then(|| now + self.pause);
        self.next_look = [again, self.next_cut(now)].into_iter().flatten().min();
        self.pause *= 2;
    }

    /// When to look next while there are pages to be cut. Looks before the one just before the cut tell
    /// nothing that is of use; they keep the WAL short.
    fn next_while_pending(&self, now: Instant) -> Instant {
        match self.next_cut(now) {
            Some(at) if self.is_calm() => at.min(now + DEFERRED_STEP),
            _ => now + self.step,
        }
    }

    /// When the pending pages will be due, if they are not now.
    fn next_cut(&self, now: Instant) -> Option<Instant> {
        self.cut_at().filter(|at| *at > now)
    }

    /// The pause after the first quiet look that follows one that found something.
    fn first_pause(&self) -> Duration {
        if self.is_calm() {
            self.step
        } else {
            LOOK_AGAIN_MIN
        }
    }

    /// Whether what was read just now came after a pause of the writer. Looks that each find something say
    /// nothing of the time between them.
    fn has_paused(&self, now: Instant) -> bool {
        let looks = if self.was_quiet { 1 } else { 2 };
        let since = |at| now.saturating_duration_since(at);
        self.last_new.is_none_or(|at| since(at) >= PAUSE * looks)
    }

    /// When the pending pages are due; `None` when there are none.
    fn cut_at(&self) -> Option<Instant> {
        let (pending, last_new) = (self.pending?, self.last_new?);
        let due = self.last_cut.map_or(last_new, |at| at + self.sync_interval);
        let early = match pending {
            Pending::AfterPause => last_new,
            Pending::Busy => last_new + PAUSE,
        };
        let at = due.min(early.max(self.token_at(last_new)));
        Some(self.not_before.map_or(at, |earliest| at.max(earliest)))
    }

    /// From when on an early cut is within the bucket.
    fn token_at(&self, fallback: Instant) -> Instant {
        let burst = self.token() * (EARLY_BURST - 1);
        self.bucket_full_at
            .and_then(|at| at.checked_sub(burst))
            .unwrap_or(fallback)
    }

    fn token(&self) -> Duration {
        self.sync_interval / EARLY_PER_INTERVAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MANY: u64 = FEW_BYTES;
    const FEW: u64 = 16 << 10;

    #[test]
    fn an_idle_database_sleeps_without_a_timer() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND);
        assert_eq!(pace.wake_at(), None);
        pace.touched(start);
        let (mut now, mut looks) = (start, 0);
        while let Some(at) = pace.wake_at() {
            now = now.max(at);
            assert!(pace.look_due(now));
            pace.quiet(now, STEP);
            looks += 1;
            assert!(looks < 20, "looks end by themselves");
        }
        assert!(
            now - start >= Duration::from_millis(500),
            "a slow publication is still seen"
        );
    }

    #[test]
    fn a_transaction_is_looked_after_until_it_ends() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND);
        pace.touched(start);
        let mut looks = 0;
        while pace.wake_at().is_some_and(|at| at < start + SECOND * 60) {
            let now = pace.wake_at().unwrap();
            pace.uncommitted(now, STEP);
            looks += 1;
        }
        assert!(pace.wake_at().is_some(), "its end would not be seen");
        assert!(looks < 140, "{looks} looks in a minute");
        let mut now = start + SECOND * 60;
        while let Some(at) = pace.wake_at() {
            assert!(at <= now + LOOK_AGAIN_MAX, "it is seen soon");
            now = at;
            pace.quiet(now, STEP);
        }
    }

    #[test]
    fn a_file_that_nothing_follows_is_made_durable_once() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND);
        pace.stepped(start, MANY, STEP);
        pace.cut(start);
        let mut now = start;
        while let Some(at) = pace.wake_at().filter(|_| !pace.settle_due(now)) {
            now = at;
            if pace.look_due(now) {
                pace.quiet(now, STEP);
            }
        }
        assert_eq!(now, start + SETTLE);
        pace.settled();
        assert_eq!(pace.wake_at(), None, "and then it sleeps");
    }

    #[test]
    fn what_failed_is_tried_again_after_a_pause_whatever_it_was() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND);
        pace.stepped(start, MANY, STEP);
        pace.cut(start);
        pace.stepped(start + STEP, MANY, STEP);
        let later = start + SETTLE * 2;
        assert!(pace.settle_due(later) && pace.cut_due(later) && pace.look_due(later));
        pace.failed(later);
        assert_eq!(pace.wake_at(), Some(later + RETRY), "it would spin");
        assert!(pace.settle_due(later + RETRY), "and it is not forgotten");
    }

    #[test]
    fn rest_comes_once_after_the_last_look_and_after_the_last_cut() {
        let start = Instant::now();
        let mut pace = Pace::new(10 * SECOND);
        pace.stepped(start, MANY, STEP);
        let mut now = start;
        while let Some(at) = pace.next_look {
            now = at;
            pace.quiet(now, STEP);
            assert!(!pace.comes_to_rest(), "pages are pending");
        }
        pace.cut(now);
        assert!(pace.comes_to_rest() && !pace.comes_to_rest());
        // A hint that comes to nothing.
        pace.touched(now);
        while let Some(at) = pace.next_look {
            assert!(!pace.comes_to_rest());
            pace.quiet(at, STEP);
        }
        assert!(pace.comes_to_rest());
        // Somebody asked for a cut.
        pace.cut(now);
        assert!(pace.comes_to_rest());
    }

    #[test]
    fn the_first_commit_after_a_quiet_spell_is_cut_at_once() {
        let now = Instant::now();
        let mut pace = Pace::new(SECOND);
        pace.stepped(now, MANY, STEP);
        assert!(pace.cut_due(now));
        pace.cut(now);
        let later = now + Duration::from_millis(200);
        pace.stepped(later, MANY, STEP);
        assert!(
            pace.cut_due(later),
            "a pause is enough, not a whole interval"
        );
    }

    #[test]
    fn what_is_read_beside_a_look_is_cut_though_nobody_writes_after_it() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND);
        pace.stepped(start, MANY, STEP);
        pace.cut(start);
        // A quiet look, and a checkpoint of ours that found one more commit.
        let later = start + STEP;
        pace.holds(later);
        pace.quiet(later, STEP);
        assert!(pace.cut_due(start + SECOND), "it waits for a commit");
        // What a look told of keeps its own time.
        let mut pace = Pace::new(SECOND);
        pace.stepped(start, MANY, STEP);
        pace.holds(start);
        assert!(pace.cut_due(start), "a pause is enough");
    }

    #[test]
    fn a_commit_soon_after_another_waits_for_the_pause_only() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND);
        pace.stepped(start, MANY, STEP);
        pace.cut(start);
        let second = start + Duration::from_millis(20);
        pace.stepped(second, MANY, STEP);
        assert!(!pace.cut_due(second));
        assert_eq!(pace.wake_at(), Some(second + STEP));
        assert!(pace.cut_due(second + PAUSE));
    }

    #[test]
    fn a_steady_trickle_is_bounded_by_the_bucket() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND);
        let mut cuts = 0;
        for tick in 0..600 {
            let mut now = start + Duration::from_millis(100) * tick;
            pace.stepped(now, MANY, STEP);
            for _ in 0..9 {
                if pace.cut_due(now) {
                    pace.cut(now);
                    cuts += 1;
                }
                now += Duration::from_millis(10);
            }
        }
        let most = 60 * EARLY_PER_INTERVAL + EARLY_BURST + 60;
        assert!(
            (120..=most).contains(&cuts),
            "60 s of 10 commits a second: {cuts} files"
        );
    }

    /// What following commits comes to.
    #[derive(Debug, Default)]
    struct Followed {
        looks: u32,
        cuts: u32,
        /// The longest time from a commit to its cut.
        lag: Duration,
    }

    /// A commit of so many bytes at each of the times, each with a hint.
    fn follow(commits: &[Duration], bytes: u64) -> Followed {
        let start = Instant::now();
        let (mut pace, mut followed) = (Pace::new(SECOND), Followed::default());
        let mut hints = commits.iter().map(|at| start + *at).peekable();
        let mut to_read = hints.clone();
        let mut read: Vec<Instant> = vec![];
        let (mut last_new, mut last_look) = (start, start);
        loop {
            let hint = hints.peek().copied();
            let Some(now) = [pace.wake_at(), hint].into_iter().flatten().min() else {
                assert!(
                    read.is_empty() && to_read.peek().is_none(),
                    "something is left"
                );
                // A session must learn that its writer paused.
                assert!(last_look - last_new >= Cadence::CALM);
                return followed;
            };
            if hints.next_if(|at| *at == now).is_some() {
                pace.touched(now);
            }
            if pace.look_due(now) {
                followed.looks += 1;
                let before = read.len();
                read.extend(std::iter::from_fn(|| to_read.next_if(|at| *at <= now)));
                last_look = now;
                match (read.len() - before) as u64 {
                    0 => pace.quiet(now, STEP),
                    new => {
                        last_new = now;
                        pace.stepped(now, new * bytes, STEP);
                    }
                }
            }
            if pace.cut_due(now) {
                followed.cuts += 1;
                let lags = read.drain(..).map(|at| now - at);
                followed.lag = lags.fold(followed.lag, Duration::max);
                pace.cut(now);
            }
            if pace.settle_due(now) {
                pace.settled();
            }
        }
    }

    fn every(gap: u64, time: Duration) -> Vec<Duration> {
        let gap = Duration::from_millis(gap);
        let all = (0..).map(|number| gap * number);
        all.take_while(|at| *at < time).collect()
    }

    #[test]
    fn a_trickle_without_pauses_costs_a_look_a_step_and_a_file_an_interval() {
        for gap in [5, 20, 33, 39] {
            let Followed { looks, cuts, lag } = follow(&every(gap, SECOND * 10), FEW);
            assert!(looks <= 250 + CALM_READS * 8, "{gap} ms: {looks} looks");
            assert!((10..=12).contains(&cuts), "{gap} ms: {cuts} files");
            assert!(lag <= SECOND + CALM_STEP, "{gap} ms: {lag:?}");
        }
    }

    #[test]
    fn a_trickle_with_pauses_costs_few_looks_while_no_file_may_be_cut() {
        for gap in [50, 70, 100, 200, 300] {
            let Followed { looks, cuts, lag } = follow(&every(gap, SECOND * 60), FEW);
            assert!(looks <= 60 * 22 + CALM_READS * 8, "{gap} ms: {looks} looks");
            assert!(cuts >= 60 * 2, "{gap} ms: {cuts} files");
            assert!(lag <= SECOND * 6 / 10, "{gap} ms: {lag:?}");
        }
        let Followed { looks, cuts, lag } = follow(&every(1_000, SECOND * 600), FEW);
        assert!(looks <= 600 * 3 + CALM_READS * 12, "{looks} looks");
        assert_eq!((cuts, lag), (600, Duration::ZERO));
    }

    /// A writer of little whose next file has to wait, just after a look; and the time of that.
    fn calm_and_waiting() -> (Pace, Instant) {
        let (mut now, mut pace) = (Instant::now(), Pace::new(SECOND));
        let mut files = 0;
        while files < 40 || pace.pending.is_none() {
            now += PAUSE * 2;
            pace.stepped(now, FEW, STEP);
            if pace.cut_due(now) {
                pace.cut(now);
                files += 1;
            }
        }
        assert!(pace.is_calm() && pace.next_cut(now) > Some(now + DEFERRED_STEP));
        (pace, now)
    }

    #[test]
    fn a_calm_writer_that_writes_on_is_looked_at_again_before_its_file_is_cut() {
        let (mut pace, now) = calm_and_waiting();
        assert_eq!(pace.next_look, Some(now + DEFERRED_STEP));
        let now = now + DEFERRED_STEP;
        pace.quiet(now, STEP);
        assert_eq!(pace.next_look, pace.next_cut(now), "nothing is due before");
        pace.touched(now);
        assert_eq!(pace.next_look, Some(now + DEFERRED_STEP));
        pace.touched(now + STEP);
        assert_eq!(pace.next_look, Some(now + DEFERRED_STEP), "put off again");
        pace.stepped(now + DEFERRED_STEP, MANY, STEP);
        assert_eq!(pace.next_look, Some(now + DEFERRED_STEP + STEP));
    }

    #[test]
    fn the_end_of_a_transaction_of_a_calm_writer_is_looked_for_too() {
        for waits in [true, false] {
            let (mut pace, mut now) = calm_and_waiting();
            if !waits {
                pace.cut(now);
            }
            let end = now + 20 * SECOND;
            while now < end {
                let next = pace.next_look.expect("its end would not be seen");
                assert!(next <= now + LOOK_AGAIN_MAX, "it is seen soon");
                now = next;
                pace.uncommitted(now, STEP);
                if pace.cut_due(now) {
                    pace.cut(now);
                }
            }
        }
    }

    #[test]
    fn sporadic_commits_and_pairs_of_them_are_shipped_soon_at_a_few_looks() {
        let single = follow(&every(1_700, SECOND * 60), FEW);
        assert!(single.lag.is_zero(), "{single:?}");
        assert!(single.looks <= 36 * 12, "{single:?}");
        for apart in [1, 10, 30] {
            let apart = Duration::from_millis(apart);
            let pairs = every(1_700, SECOND * 60);
            let pairs: Vec<_> = pairs.into_iter().flat_map(|at| [at, at + apart]).collect();
            let pairs = follow(&pairs, FEW);
            assert!(pairs.lag <= PAUSE + STEP * 4, "{apart:?}: {pairs:?}");
        }
    }

    #[test]
    fn who_writes_much_is_looked_at_often_in_few_commits_too() {
        // Ten pages of 64 KB every 20 ms: past any limit of a WAL within seconds.
        let Followed { looks, cuts, .. } = follow(&every(20, SECOND * 10), 640 << 10);
        assert!(looks >= 500, "{looks}: each is read at once");
        assert!((10..=12).contains(&cuts), "{cuts} files");
    }

    #[test]
    fn a_small_read_now_and_then_makes_nobody_calm() {
        let (mut now, mut pace) = (Instant::now(), Pace::new(SECOND));
        for number in 0..100 {
            let bytes = if number % CALM_READS == 0 { MANY } else { FEW };
            pace.stepped(now, bytes, STEP);
            assert_eq!(pace.next_look, Some(now + STEP));
            now += STEP;
            pace.quiet(now, STEP);
            assert_eq!(pace.next_look, Some(now + LOOK_AGAIN_MIN));
            now += LOOK_AGAIN_MIN;
        }
    }

    #[test]
    fn under_load_one_file_is_cut_per_interval() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND);
        let mut cuts = 0;
        let mut now = start;
        while now < start + SECOND * 15 {
            pace.stepped(now, MANY, STEP);
            if pace.cut_due(now) {
                pace.cut(now);
                cuts += 1;
            }
            now += STEP;
        }
        assert!(
            (14..=17).contains(&cuts),
            "15 s of load, one file a second: {cuts}"
        );
    }

    #[test]
    fn what_was_read_while_a_file_was_cut_is_due_though_nobody_writes_any_more() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND);
        pace.stepped(start, MANY, STEP);
        let later = start + Duration::from_millis(200);
        pace.cut(later);
        pace.holds(later);
        assert!(!pace.cut_due(later), "the writer is busy");
        let mut now = later;
        while !pace.cut_due(now) {
            now = now.max(
                pace.wake_at()
                    .expect("it does not sleep before the pages are cut"),
            );
            if pace.look_due(now) {
                pace.quiet(now, STEP);
            }
        }
        assert!(now <= later + PAUSE, "a pause of the writer is enough");
    }

    #[test]
    fn a_cut_that_failed_is_not_tried_again_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND);
        pace.stepped(start, MANY, STEP);
        assert!(pace.cut_due(start));
        pace.failed(start);
        assert_eq!(pace.wake_at(), Some(start + RETRY));
        assert!(!pace.cut_due(start) && pace.cut_due(start + RETRY));
    }

    #[test]
    fn an_app_that_was_disturbed_is_left_in_peace() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND);
        pace.stepped(start, MANY, STEP);
        pace.cut(start);
        pace.rest_until(start + 3 * SECOND);
        let later = start + 2 * SECOND;
        pace.stepped(later, MANY, STEP);
        assert!(!pace.cut_due(later), "though the interval is over");
        assert!(pace.cut_due(start + 3 * SECOND));
    }

    #[test]
    fn pending_pages_wake_the_thread_even_when_no_look_is_due() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND);
        pace.stepped(start, MANY, STEP);
        pace.cut(start);
        let second = start + Duration::from_millis(10);
        pace.stepped(second, MANY, STEP);
        for _ in 0..20 {
            pace.quiet(second, STEP);
        }
        assert_eq!(pace.wake_at(), Some(second + PAUSE));
    }
}
