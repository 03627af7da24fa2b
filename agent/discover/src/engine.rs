//! The discovery thread: hints in, looks at the truth, events out. One thread for the node, so
//! that all this has one order and no locks, and costs nothing while nothing happens.

mod rests;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{self, CWD, Mode, OFlags};

use crate::claims::Claims;
use crate::discover::{Config, Limits, PodSource, Requests};
use crate::error::Error;
use crate::event::Event;
use crate::identity::PodUid;
use crate::inventory::{PodChange, diff_pods};
use crate::kubelet::{Kubelet, Way};
use crate::manifests::{Manifests, Wanted};
use crate::outbox::{Closed, Outbox};
use crate::pods::PodRef;
use crate::policy::BadValue;
use crate::volume::{Context, Volume};
use crate::watch::{Hint, NotWatched, Place, Watches, What};

use rests::Rests;

/// Scans of everything after an overflow come at most this often: whoever causes the overflows
/// shall not cause work without end.
const OVERFLOW_REST: Duration = Duration::from_secs(1);
/// How often the way to a pod's volumes is followed when it grows under our feet; it has four
/// steps.
const STEPS_MAX: usize = 8;

/// Everything the thread owns.
#[derive(Debug)]
pub(crate) struct Engine {
    kubelet: Kubelet,
    limits: Limits,
    claims: Claims,
    outbox: Outbox,
    requests: Arc<Requests>,
    watches: Watches,
    /// The directory of manifests, where pods come from one.
    manifests: Option<Manifests>,
    pods: BTreeMap<PodUid, Pod>,
    bad_labels: BTreeMap<PodUid, BadValue>,
    unusable: BTreeMap<PodUid, String>,
    /// Whether the directory of manifests is not watched.
    manifests_unwatched: bool,
    /// Why notification does not cover everything, until it has been said.
    limited: Option<String>,
    limited_said: bool,
    ready: Ready,
    overflowed: bool,
    /// When everything was last scanned.
    last_rescan: Option<Instant>,
    next_rescan: Instant,
    next_poll: Instant,
    rests: Rests,
}

/// Whether every pod of this node was told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    /// No.
    NotYet,
    /// With this round; it is to be said.
    Due,
    /// It was said.
    Said,
}

/// One pod that is wanted.
#[derive(Debug)]
struct Pod {
    /// As last told.
    told: PodRef,
    /// Whether its volumes may be looked into.
    watched: bool,
    /// Whether its directories may have changed.
    way_due: bool,
    volumes: BTreeMap<String, Volume>,
}

impl Engine {
    /// Checks what must be there and reads nothing yet.
    pub(crate) fn new(
        config: Config,
        claims: Claims,
        outbox: Outbox,
        requests: Arc<Requests>,
    ) -> Result<Self, Error> {
        let Config {
            source,
            kubelet_root,
            node_name,
            limits,
        } = config;
        let kubelet = Kubelet::new(&kubelet_root).map_err(|source| Error::KubeletRoot {
            path: kubelet_root,
            source,
        })?;
        let manifests = match source {
            PodSource::Kube(_) => None,
            PodSource::Dir(dir) => Some(
                Manifests::new(&dir, &node_name, &limits)
                    .map_err(|source| Error::Manifests { path: dir, source })?,
            ),
        };
        let (watches, limited) = Watches::new(limits.watches_max);
        let now = Instant::now();
        Ok(Self {
            kubelet,
            claims,
            outbox,
            requests,
            watches,
            manifests_unwatched: manifests.is_some(),
            ready: match manifests {
                // The first round reads the whole directory.
                Some(_) => Ready::Due,
                None => Ready::NotYet,
            },
            manifests,
            pods: BTreeMap::new(),
            bad_labels: BTreeMap::new(),
            unusable: BTreeMap::new(),
            limited,
            limited_said: false,
            overflowed: false,
            last_rescan: None,
            // Due at once: the first round is the first look.
            next_rescan: now,
            next_poll: now + limits.poll_interval,
            rests: Rests::new(limits.batch_pause, now),
            limits,
        })
    }

    /// Runs until nobody listens.
    pub(crate) fn run(&mut self) {
        while self.turn().is_ok() {}
        tracing::debug!("discovery ends");
    }

    /// One round: take what was asked and hinted, look, say, wait.
    pub(crate) fn turn(&mut self) -> Result<(), Closed> {
        let hinted = self.round()?;
        let now = Instant::now();
        self.rests.took(hinted, now);
        if !self.rests.is_crowded() {
            self.wait(self.next_due().saturating_duration_since(now), true);
        }
        // Only a request ends a rest.
        if let Some(left) = self.rests.left(Instant::now()) {
            self.wait(left, false);
        }
        Ok(())
    }

    /// A round without the wait; says whether there were hints.
    pub(crate) fn round(&mut self) -> Result<bool, Closed> {
        let asked = self.requests.take();
        if asked.stop {
            return Err(Closed);
        }
        let now = Instant::now();
        for uid in &asked.watch {
            if let Some(pod) = self.pods.get_mut(uid) {
                pod.way_due |= !pod.watched;
                pod.watched = true;
            }
        }
        let hinted = self.take_hints(now);
        if asked.rescan || self.next_rescan <= now {
            self.rescan(now)?;
        } else if self.next_poll <= now {
            self.poll_unwatched(now)?;
        }
        if self.manifests.as_mut().is_some_and(Manifests::take_all_due) {
            self.look_through_manifests(now)?;
        }
        self.overflow(now)?;
        if let Some(wanted) = asked.pods {
            if self.ready == Ready::NotYet {
                self.ready = Ready::Due;
            }
            self.take_pods(wanted, now)?;
        }
        self.read_manifests(now)?;
        if self.ready == Ready::Due {
            self.ready = Ready::Said;
            self.outbox.send(Event::Ready)?;
        }
        self.look(now)?;
        self.say_limited()?;
        Ok(hinted)
    }

    /// Sorts the hints to where they belong.
    fn take_hints(&mut self, now: Instant) -> bool {
        let Self {
            watches,
            manifests,
            pods,
            claims,
            overflowed,
            manifests_unwatched,
            ..
        } = self;
        watches.drain(|hint| match hint {
            Hint::Overflow => *overflowed = true,
            Hint::At(Place::Manifests, what) => match (what, &mut *manifests) {
                (What::SelfGone, _) => *manifests_unwatched = true,
                (What::Went(name), Some(manifests)) => manifests.went(name, now),
                (What::Came(name) | What::Written(name), Some(manifests)) => {
                    manifests.came(name, now);
                }
                (What::Directory(_), _) | (_, None) => {}
            },
            Hint::At(Place::Way(uid), _) => {
                if let Some(pod) = pods.get_mut(uid) {
                    pod.way_due = true;
                }
            }
            Hint::At(Place::Dir(uid, volume, dir), what) => {
                if let Some(Pod { told, volumes, .. }) = pods.get_mut(uid)
                    && let Some(volume) = volumes.get_mut(volume)
                {
                    volume.hint(dir, what, (&told.policy, &*claims), now);
                }
            }
        })
    }

    /// The safety net: everything is looked at whatever was or was not notified.
    fn rescan(&mut self, now: Instant) -> Result<(), Closed> {
        self.last_rescan = Some(now);
        self.next_rescan = now + self.limits.rescan_interval;
        self.next_poll = now + self.limits.poll_interval;
        for pod in self.pods.values_mut().filter(|pod| pod.watched) {
            pod.way_due = true;
            pod.volumes
                .values_mut()
                .for_each(|volume| volume.want_scan(now));
        }
        self.look_through_manifests(now)
    }

    /// Looks where notification does not reach.
    fn poll_unwatched(&mut self, now: Instant) -> Result<(), Closed> {
        self.next_poll = now + self.limits.poll_interval;
        let blind = self.watches.fd().is_none();
        for pod in self.pods.values_mut().filter(|pod| pod.watched) {
            pod.way_due |= blind;
            let unwatched = pod
                .volumes
                .values_mut()
                .filter(|volume| volume.is_unwatched());
            unwatched.for_each(|volume| volume.want_scan(now));
        }
        if self.manifests_unwatched {
            self.look_through_manifests(now)?;
        }
        Ok(())
    }

    /// Watches the directory of manifests and finds what changed in it.
    fn look_through_manifests(&mut self, now: Instant) -> Result<(), Closed> {
        let Some(manifests) = &mut self.manifests else {
            return Ok(());
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let watched = match fs::openat(CWD, manifests.dir(), flags, Mode::empty()) {
            Ok(dir) => self.watches.set(Place::Manifests, dir.as_fd()),
            Err(_) => Err(NotWatched::Failed),
        };
        self.manifests_unwatched = watched.is_err();
        if let Err(NotWatched::Limit(reason)) = watched {
            self.limited.get_or_insert(reason);
        }
        let mut events = Vec::new();
        manifests.look_through(now, &mut events);
        events
            .into_iter()
            .try_for_each(|event| self.outbox.send(event))
    }

    /// After an overflow nothing that was notified can be trusted to be all.
    fn overflow(&mut self, now: Instant) -> Result<(), Closed> {
        if std::mem::take(&mut self.overflowed) {
            tracing::debug!("inotify queue overflowed");
            self.outbox.send(Event::Overflow)?;
            let earliest = self.last_rescan.map_or(now, |last| last + OVERFLOW_REST);
            self.next_rescan = self.next_rescan.min(earliest.max(now));
            if self.next_rescan <= now {
                self.rescan(now)?;
            }
        }
        Ok(())
    }

    /// Reads the manifests that are due and tells what changed about pods.
    fn read_manifests(&mut self, now: Instant) -> Result<(), Closed> {
        let Some(manifests) = &mut self.manifests else {
            return Ok(());
        };
        let mut events = Vec::new();
        let changed = manifests.refresh(now, &mut events);
        if !changed {
            return Ok(());
        }
        let wanted = manifests.wanted(&mut events);
        events
            .into_iter()
            .try_for_each(|event| self.outbox.send(event))?;
        self.take_pods(wanted, now)
    }

    /// Takes in all pods as they are now and tells what changed.
    fn take_pods(&mut self, mut wanted: Wanted, now: Instant) -> Result<(), Closed> {
        for (uid, reason) in &wanted.unusable {
            if self.unusable.get(uid) != Some(reason) {
                let (pod, reason) = (uid.clone(), reason.clone());
                self.outbox.send(Event::BadPod { pod, reason })?;
            }
        }
        for uid in wanted.unusable.keys().chain(&wanted.undecided) {
            let known = self.pods.get(uid).map(|pod| pod.told.clone());
            wanted.pods.extend(known.map(|pod| (uid.clone(), pod)));
        }
        self.unusable = wanted.unusable;
        for (uid, bad) in &wanted.bad_labels {
            if self.bad_labels.get(uid) != Some(bad) {
                self.say_bad(uid, bad)?;
            }
        }
        self.bad_labels = wanted.bad_labels;
        let known = |uid: &PodUid| self.pods.get(uid).map(|pod| &pod.told);
        let changes = diff_pods(known, self.pods.keys(), &wanted.pods);
        for change in changes {
            self.tell(change, now)?;
        }
        // A pod that began to end may have changed otherwise too; its volumes stay as they are.
        for (uid, pod) in wanted.pods {
            if let Some(known) = self.pods.get_mut(&uid) {
                known.told = pod;
            }
        }
        Ok(())
    }

    /// One change, into our own state and out.
    fn tell(&mut self, change: PodChange, now: Instant) -> Result<(), Closed> {
        match change {
            PodChange::Gone(uid) => {
                self.forget(&uid);
                self.outbox.send(Event::PodGone(uid))
            }
            PodChange::Terminating(uid) => self.outbox.send(Event::PodTerminating(uid)),
            PodChange::Appeared(pod) => {
                self.outbox.send(Event::PodAppeared(pod.clone()))?;
                pod.wrong
                    .iter()
                    .try_for_each(|bad| self.say_bad(&pod.uid, bad))?;
                let (uid, volumes) = (pod.uid.clone(), BTreeMap::new());
                let known = Pod {
                    told: pod,
                    watched: false,
                    way_due: false,
                    volumes,
                };
                self.pods.insert(uid, known);
                Ok(())
            }
            PodChange::Changed(pod) => {
                self.outbox.send(Event::PodChanged(pod.clone()))?;
                let uid = pod.uid.clone();
                let Some(known) = self.pods.get_mut(&uid) else {
                    return Ok(());
                };
                let old = std::mem::replace(&mut known.told, pod.clone());
                known.way_due = true;
                known
                    .volumes
                    .values_mut()
                    .for_each(|volume| volume.want_scan(now));
                let news = pod.wrong.iter().filter(|bad| !old.wrong.contains(bad));
                news.into_iter()
                    .try_for_each(|bad| self.say_bad(&uid, bad))?;
                self.leave_volumes(&uid)
            }
        }
    }

    /// Ends what the changed policy of a pod no longer selects.
    fn leave_volumes(&mut self, uid: &PodUid) -> Result<(), Closed> {
        let Some(Pod {
            told: pod, volumes, ..
        }) = self.pods.get_mut(uid)
        else {
            return Ok(());
        };
        let mut cx = Context {
            kubelet: &self.kubelet,
            claims: &self.claims,
            limits: &self.limits,
            policy: &pod.policy,
            watches: &mut self.watches,
            outbox: &self.outbox,
            limited: &mut self.limited,
        };
        let stale: Vec<String> = volumes
            .keys()
            .filter(|name| !pod.volumes.iter().any(|volume| volume.name == **name))
            .cloned()
            .collect();
        for name in stale {
            if let Some(mut volume) = volumes.remove(&name) {
                volume.leave(&mut cx)?;
            }
        }
        Ok(())
    }

    /// Drops a pod and its watches without a word: it is gone as a whole.
    fn forget(&mut self, uid: &PodUid) {
        self.watches.drop_place(&Place::Way(uid.clone()));
        self.watches.drop_pod(uid);
        self.pods.remove(uid);
    }

    /// Looks into the volumes where something is due.
    fn look(&mut self, now: Instant) -> Result<(), Closed> {
        for (uid, known) in self.pods.iter_mut().filter(|(_, pod)| pod.watched) {
            if std::mem::take(&mut known.way_due) {
                let blind = match follow_way(&self.kubelet, uid, &mut self.watches) {
                    Ok(()) => false,
                    Err(NotWatched::Limit(reason)) => {
                        self.limited.get_or_insert(reason);
                        true
                    }
                    Err(NotWatched::Failed) => true,
                };
                for dir in &known.told.volumes {
                    let new = || Volume::new(uid, &dir.name, now);
                    let volume = known.volumes.entry(dir.name.clone()).or_insert_with(new);
                    volume.check_presence(now, blind);
                }
            }
            let mut cx = Context {
                kubelet: &self.kubelet,
                claims: &self.claims,
                limits: &self.limits,
                policy: &known.told.policy,
                watches: &mut self.watches,
                outbox: &self.outbox,
                limited: &mut self.limited,
            };
            for volume in known.volumes.values_mut() {
                volume.work(&mut cx, now)?;
            }
        }
        Ok(())
    }

    fn say_bad(&self, uid: &PodUid, bad: &BadValue) -> Result<(), Closed> {
        let BadValue {
            key,
            value,
            accepted,
        } = bad.clone();
        self.outbox.send(Event::BadAnnotation {
            pod: uid.clone(),
            key,
            value,
            accepted,
        })
    }

    fn say_limited(&mut self) -> Result<(), Closed> {
        let Some(reason) = self.limited.take().filter(|_| !self.limited_said) else {
            return Ok(());
        };
        self.limited_said = true;
        let interval = self.limits.poll_interval.as_secs_f32();
        let reason = format!("{reason}; what is not watched is looked at every {interval} s");
        self.outbox.send(Event::WatchesLimited { reason })
    }

    /// When the next round is due although nothing happens.
    fn next_due(&self) -> Instant {
        let volumes = || self.pods.values().flat_map(|pod| pod.volumes.values());
        let blind = self.manifests_unwatched
            || self.watches.fd().is_none()
            || volumes().any(Volume::is_unwatched);
        let manifests = self.manifests.as_ref().and_then(Manifests::next_due);
        let timers = [manifests, blind.then_some(self.next_poll)];
        let timers = timers
            .into_iter()
            .flatten()
            .chain(volumes().filter_map(Volume::next_due));
        timers.fold(self.next_rescan, Instant::min)
    }

    /// Waits for a request, for hints if wanted, or for the time to pass.
    fn wait(&self, time: Duration, hints: bool) {
        let time = Timespec::try_from(time).ok();
        let waker = PollFd::new(self.requests.waker(), PollFlags::IN);
        let watches = self.watches.fd();
        // A failed wait is a short one.
        let _woken = match watches.as_ref().filter(|_| hints) {
            Some(watches) => poll(
                &mut [waker, PollFd::new(watches, PollFlags::IN)],
                time.as_ref(),
            ),
            None => poll(&mut [waker], time.as_ref()),
        };
    }
}

/// Watches the directory that holds a pod's volumes, or the nearest above it that exists.
fn follow_way(kubelet: &Kubelet, uid: &PodUid, watches: &mut Watches) -> Result<(), NotWatched> {
    let mut before = None;
    for _ in 0..STEPS_MAX {
        let (dir, way) = kubelet
            .open_on_the_way(uid)
            .map_err(|_| NotWatched::Failed)?;
        watches.set(Place::Way(uid.clone()), dir.as_fd())?;
        let inode = crate::kubelet::inode_of(&dir).map_err(|_| NotWatched::Failed)?;
        // The next step may have come into being between the look and the watch.
        if way == Way::Whole || before == Some(inode) {
            return Ok(());
        }
        before = Some(inode);
    }
    Err(NotWatched::Failed)
}

#[cfg(test)]
mod tests;
