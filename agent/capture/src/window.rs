//! The frames of the WAL that were read last: what proved itself need not be read again.

/// How much of the WAL is read at once: small enough to be in the processor's cache still when its
/// checksum is computed.
const CHUNK_BYTES: usize = 256 * 1024;

/// How much is kept: the chunks that were read last. What of a writer's commits is longer than that is
/// read in parts of this size, so it is what the processor's cache holds.
const KEPT_BYTES: usize = 1024 * 1024;

/// Frames that follow one another, as they lie in the WAL.
#[derive(Debug, Default)]
pub(crate) struct Window {
    frame_bytes: usize,
    /// The frame that is read next, counted from 0.
    next: u32,
    chunks: Vec<Chunk>,
    /// The chunk that was filled last.
    newest: usize,
}

/// What was read at once.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// The first frame that is held, counted from 0.
    first: u32,
    /// How many are held.
    frames: usize,
}

impl Window {
    /// Forgets what is held; frame `first`, counted from 0, will be the first to be read.
    pub(crate) fn begin(&mut self, first: u32, frame_bytes: usize) {
        self.next = first;
        self.frame_bytes = frame_bytes.max(1);
        self.newest = 0;
        for chunk in &mut self.chunks {
            chunk.frames = 0;
        }
    }

    /// Room for the frames that follow: `wanted` of them, or as many as are read at once.
    pub(crate) fn room(&mut self, wanted: usize) -> &mut [u8] {
        let bytes = wanted.min(self.frames_at_once()) * self.frame_bytes;
        let kept = self.chunks_kept();
        if self
            .chunks
            .get(self.newest)
            .is_some_and(|chunk| chunk.frames > 0)
        {
            self.newest = (self.newest + 1) % kept;
        }
        if self.chunks.len() <= self.newest {
            self.chunks.resize_with(self.newest + 1, Chunk::default);
        }
        let first = self.next;
        self.chunks
            .get_mut(self.newest)
            .map_or(&mut [], |chunk| chunk.room(first, bytes))
    }

    /// Whether the next room takes the place of frames that are held.
    pub(crate) fn is_full(&self) -> bool {
        let used = |chunk: &Chunk| chunk.frames > 0;
        self.newest + 1 == self.chunks_kept() && self.chunks.get(self.newest).is_some_and(used)
    }

    /// Takes the first `bytes` bytes of that room as read, and gives the whole frames in them.
    pub(crate) fn filled(&mut self, bytes: usize) -> std::slice::ChunksExact<'_, u8> {
        let frames = bytes / self.frame_bytes;
        self.next += u32::try_from(frames).expect("no more than a chunk holds");
        let chunk = self.chunks.get_mut(self.newest);
        let filled = chunk.and_then(|chunk| {
            chunk.frames = frames;
            chunk.bytes.get(..frames * self.frame_bytes)
        });
        filled.unwrap_or_default().chunks_exact(self.frame_bytes)
    }

    fn frames_at_once(&self) -> usize {
        (CHUNK_BYTES / self.frame_bytes).max(1)
    }

    fn chunks_kept(&self) -> usize {
        (KEPT_BYTES / (self.frames_at_once() * self.frame_bytes)).max(1)
    }

    /// A frame, counted from 0, with its header; `None` when it is not held any more.
    pub(crate) fn frame(&self, index: u32) -> Option<&[u8]> {
        self.chunks.iter().find_map(|chunk| {
            let at = index.checked_sub(chunk.first)? as usize;
            let from = (at < chunk.frames).then_some(at * self.frame_bytes)?;
            chunk.bytes.get(from..from + self.frame_bytes)
        })
    }

    /// Gives its memory back.
    pub(crate) fn relax(&mut self) {
        *self = Self::default();
    }

    /// How much memory it has.
    #[cfg(test)]
    pub(crate) fn memory_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes.capacity()).sum()
    }
}

impl Chunk {
    fn room(&mut self, first: u32, bytes: usize) -> &mut [u8] {
        self.first = first;
        self.frames = 0;
        let more = bytes.saturating_sub(self.bytes.len());
        self.bytes.reserve_exact(more); // not twice as much
        self.bytes.resize(self.bytes.len() + more, 0);
        self.bytes.get_mut(..bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads frames whose bytes are their number, modulo 251.
    fn read(window: &mut Window, next: &mut u32, to: u32, frame_bytes: usize) {
        while *next < to {
            let room = window.room((to - *next) as usize);
            for frame in room.chunks_exact_mut(frame_bytes) {
                frame.fill(u8::try_from(*next % 251).unwrap());
                *next += 1;
            }
            let bytes = room.len();
            assert_eq!(window.filled(bytes).len(), bytes / frame_bytes);
        }
    }

    #[test]
    fn every_frame_that_is_held_is_the_one_asked_for() {
        for (frame_bytes, frames) in [(536, 20_000), (4120, 3000), (65_560, 100)] {
            let mut window = Window::default();
            let mut next = 7;
            window.begin(next, frame_bytes);
            assert_eq!(window.frame(7), None, "nothing was read yet");
            read(&mut window, &mut next, 7 + frames, frame_bytes);
            let held: Vec<u32> = (0..next + 9)
                .filter(|at| window.frame(*at).is_some())
                .collect();
            let newest = next - 1;
            assert_eq!(held.last(), Some(&newest), "the newest stay");
            let kept = held.len() * frame_bytes;
            assert!(kept > KEPT_BYTES - 2 * CHUNK_BYTES, "{kept} bytes are kept");
            for at in held {
                let expected = u8::try_from(at % 251).unwrap();
                assert!(
                    window
                        .frame(at)
                        .unwrap()
                        .iter()
                        .all(|byte| *byte == expected)
                );
                assert_eq!(window.frame(at).unwrap().len(), frame_bytes);
            }
            assert!(window.memory_bytes() <= KEPT_BYTES + CHUNK_BYTES.max(frame_bytes));
        }
    }

    #[test]
    fn a_window_is_full_when_the_next_frames_would_take_the_place_of_others() {
        for frame_bytes in [536, 4120, 65_560] {
            for at_once in [1, 3, 10_000] {
                let mut window = Window::default();
                let mut next = 5;
                window.begin(next, frame_bytes);
                loop {
                    let was_full = window.is_full();
                    let room = window.room(at_once).len() / frame_bytes;
                    next += u32::try_from(window.filled(room * frame_bytes).len()).unwrap();
                    assert_eq!(window.frame(5).is_none(), was_full, "up to frame {next}");
                    if was_full {
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_read_in_part_is_no_frame() {
        let mut window = Window::default();
        window.begin(0, 536);
        assert_eq!(window.room(3).len(), 3 * 536);
        assert_eq!(window.filled(2 * 536 - 1).len(), 1);
        assert!(window.frame(0).is_some() && window.frame(1).is_none());
    }

    #[test]
    fn a_new_beginning_forgets() {
        let mut window = Window::default();
        window.begin(0, 536);
        let mut next = 0;
        read(&mut window, &mut next, 10, 536);
        window.begin(5, 536);
        assert_eq!(window.frame(5), None);
    }
}
