//! Progress bars: on a terminal, or not at all.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::clean;

/// Redraws a second: smooth enough, and cheap over a slow line.
const REDRAWS: u8 = 10;

/// A bar that grows with bytes. Dropped, it is gone from the screen.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(what: &str, visible: bool) -> Self {
        let target = if visible {
            ProgressDrawTarget::stderr_with_hz(REDRAWS)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target).with_message(clean(what));
        bar.set_style(style("{spinner} {msg} {bytes} {elapsed}"));
        Self(bar)
    }

    /// How far it is, in bytes; a total of 0 is unknown.
    pub(crate) fn at(&self, done: u64, total: u64) {
        if total > 0 && self.0.length() != Some(total) {
            self.0.set_length(total);
            self.0.set_style(style(
                "{msg} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            ));
        }
        self.0.set_position(done);
        self.0.tick();
    }

    /// How many of all are done.
    pub(crate) fn counted(&self, done: u64, total: u64) {
        if self.0.length() != Some(total) {
            self.0.set_length(total);
            self.0
                .set_style(style("{msg} [{bar:24}] {pos}/{len} {elapsed}"));
        }
        self.0.set_position(done);
    }

    /// Names what is being worked on.
    pub(crate) fn name(&self, what: &str) {
        self.0.set_message(clean(what));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("a template of known keys")
        .progress_chars("=> ")
}
