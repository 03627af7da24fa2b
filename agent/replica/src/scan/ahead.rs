//! Opens the files of a plan before they are wanted: on a share each open and each read is a journey,
//! and a long tail of small files is little else.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

use crate::input::{Input, Keep};
use crate::{ReplicaFile, Store, StoreError};

/// Files up to this size are read at once, and so are several that have no more together.
const WHOLE_BYTES_MAX: u64 = 512 * 1024;
/// Files of a group: to wake somebody for each would take longer than what is done with it.
const GROUP_FILES_MAX: usize = 8;
/// Threads that open files, and mostly wait. Each has two groups in hand at most.
const THREADS_MAX: usize = 8;

/// Files that follow one another, newest first, opened.
pub(super) type Group<'s> = Vec<Result<Input<'s>, StoreError>>;

/// All files in groups, newest first.
#[derive(Debug)]
pub(super) struct Ahead<'s> {
    /// They take turns, so that what they send is in order for whoever hears them in turn.
    openers: Vec<Receiver<Group<'s>>>,
    turn: usize,
}

impl<'s> Ahead<'s> {
    /// Begins to open these files. The threads end with this, if not earlier.
    pub(super) fn spawn<'t>(
        scope: &'t Scope<'t, '_>,
        store: &'s dyn Store,
        files: &'s [ReplicaFile],
    ) -> Self
    where
        's: 't,
    {
        let groups = groups(files);
        let threads = groups.len().min(THREADS_MAX);
        let opener = |number| {
            let (send, receive) = sync_channel(1);
            let own = groups.iter().skip(number).step_by(threads);
            let own: Vec<&[ReplicaFile]> = own.copied().collect();
            scope.spawn(move || {
                let opened = own.into_iter().map(|group| open(store, group));
                // Once nobody wants the rest, nothing more is opened.
                opened
                    .map(|group| send.send(group))
                    .take_while(Result::is_ok)
                    .count()
            });
            receive
        };
        Self {
            openers: (0..threads).map(opener).collect(),
            turn: 0,
        }
    }
}

impl<'s> Iterator for Ahead<'s> {
    type Item = Group<'s>;

    /// The end comes too early when a thread panicked.
    fn next(&mut self) -> Option<Group<'s>> {
        let group = self.openers.get(self.turn)?.recv().ok();
        self.turn = (self.turn + 1) % self.openers.len();
        group
    }
}

fn groups(mut files: &[ReplicaFile]) -> Vec<&[ReplicaFile]> {
    let mut groups = Vec::new();
    while !files.is_empty() {
        let mut bytes = 0_u64;
        let fit = files.iter().rev().take(GROUP_FILES_MAX).take_while(|file| {
            bytes = bytes.saturating_add(file.bytes);
            bytes <= WHOLE_BYTES_MAX
        });
        let (older, group) = files.split_at(files.len() - fit.count().max(1));
        groups.push(group);
        files = older;
    }
    groups
}

fn open<'s>(store: &'s dyn Store, group: &[ReplicaFile]) -> Group<'s> {
    let open = |file: &ReplicaFile| {
        let keep = Keep {
            // One that grew since it was listed would break the bound.
            whole_bytes_max: file.bytes.min(WHOLE_BYTES_MAX),
            open: true,
        };
        Input::open(store, file, keep)
    };
    group.iter().rev().map(open).collect()
}
