//! Waiting for facts, never for time: every wait looks at a condition and has a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Between two looks. Short against every interval that the tests set.
const LOOK: Duration = Duration::from_millis(20);

/// Long enough for anything that works, on a busy machine with two cores.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Looks until `look` finds something; fails, with the last error it met, after `patience`.
pub fn poll<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        // A machine that stood still since the last look owes one more.
        let late = Instant::now() > deadline;
        let failure = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(err) => Some(err),
        };
        if late {
            let message = format!("waited {patience:?} in vain: {what}");
            match failure {
                Some(err) => return Err(err).context(message),
                None => bail!(message),
            }
        }
        thread::sleep(LOOK);
    }
}

/// Looks until the fact holds, for as long as anything may take.
pub fn wait(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    poll(what, PATIENCE, || Ok(holds()?.then_some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_in_vain_says_what_for_and_why() {
        let short = Duration::from_millis(1);
        let err = poll::<()>("the tide", short, || bail!("no sea here")).unwrap_err();
        let text = format!("{err:#}");
        assert!(
            text.contains("the tide") && text.contains("no sea here"),
            "{text}"
        );
    }
}
