//! Every step and every read hangs once, as on a mount whose server is away, and answers late.

use std::thread;

use super::*;
use crate::testing::hang::Hang;

/// What comes of a call that hung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It answers after all, and the operation goes on.
    LetGo,
    /// Somebody else does it meanwhile; the call answers when all is over.
    Late,
}

/// Lets a call go, also when a test fails: its thread is waited for.
struct LetGo<'h>(&'h Hang);

impl Drop for LetGo<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Runs something of which a call hangs. While it does, everything else goes on; at the end nothing is
/// lost and all is done, by whomever.
pub(super) fn while_hung(
    hang: &Hang,
    then: Then,
    context: &str,
    run: impl FnOnce() -> Outcome + Send,
    again: impl Fn() -> Outcome,
    holds: impl Fn(&str),
) {
    let outcome = thread::scope(|scope| {
        let let_go = LetGo(hang);
        let run = scope.spawn(|| run().map_err(|error| text(error.as_ref())));
        assert!(hang.reached(), "{context}: it does not hang");
        holds(context);
        if then == Then::Late {
            again().unwrap_or_else(|error| {
                panic!("{context}: the one beside it: {}", text(error.as_ref()))
            });
            holds(context);
        }
        assert!(!run.is_finished(), "{context}: it did not wait");
        drop(let_go);
        run.join().unwrap()
    });
    holds(context);
    if let (Then::LetGo, Err(error)) = (then, &outcome) {
        panic!("{context}: {error}");
    }
    again().unwrap_or_else(|error| panic!("{context}: the next attempt: {}", text(error.as_ref())));
    holds(context);
}

#[test]
fn a_step_that_hangs_holds_up_nobody_and_harms_nothing_when_it_ends() {
    let mut tried = 0;
    for operation in &ALL {
        for (number, step) in (0..).zip(steps(operation)) {
            for then in [Then::LetGo, Then::Late] {
                let (dir, fs) = world(operation);
                let context = format!("{}: step {number} ({step}) hangs, {then:?}", operation.name);
                let over = Arc::clone(&fs) as Arc<dyn Fs>;
                while_hung(
                    fs.hang_at(number),
                    then,
                    &context,
                    || (operation.run)(dir.path(), over),
                    || (operation.run)(dir.path(), Arc::new(OsFs)),
                    |context| (operation.holds)(dir.path(), context),
                );
                (operation.done)(dir.path(), &context);
                tried += 1;
            }
        }
    }
    say(&format!("hangs: {tried} of {} operations", ALL.len()));
}

#[test]
fn a_read_that_hangs_holds_up_nobody_and_harms_nothing_when_it_ends() {
    let mut tried = 0;
    for (name, run) in read_all() {
        for call in 0..calls(run) {
            for then in [Then::LetGo, Then::Late] {
                let (dir, _) = world(&RETAIN);
                let store = FaultyStore::new(replica(dir.path()));
                while_hung(
                    store.hang_at(call),
                    then,
                    &format!("{name}: call {call} hangs, {then:?}"),
                    || run(&store, dir.path()),
                    || run(&FaultyStore::new(replica(dir.path())), dir.path()),
                    |context| kept(name, dir.path(), context),
                );
                tried += 1;
            }
        }
    }
    say(&format!("hanging reads: {tried}"));
}
