//! Why a command did not do its work, and the exit code that says so.

use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitCode;

/// The exit codes of sqlrepctl; scripts rely on them (DESIGN §4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All that was asked for is done.
    Done = 0,
    /// It was tried and did not work.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No such database, branch, restore point or replica.
    NotFound = 3,
    /// The agent or the cluster does not answer.
    Unreachable = 4,
    /// Possible but not allowed: would overwrite, not the owner, ambiguous.
    Refused = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What went wrong, in words for the person at the terminal.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What was attempted and why it failed.
    message: String,
    /// The next step.
    hint: Option<String>,
    /// The error underneath.
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What most of the program returns.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure with this exit code.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// It was tried and did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The command line makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// There is no such thing.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, message)
    }

    /// Nobody answers.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, message)
    }

    /// Possible but not allowed.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message)
    }

    /// Adds the next step.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the error underneath.
    pub(crate) fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The next step, if there is one.
    pub(crate) fn next_step(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whether our reader went away, as `head` does when it has enough: no failure at all.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        let mut cause = self
            .source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static));
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return io.kind() == io::ErrorKind::BrokenPipe;
            }
            cause = error.source();
        }
        false
    }

    /// One exit code for several failures: theirs if they agree, else plainly failed.
    pub(crate) fn exit_of_all(exits: impl IntoIterator<Item = Exit>) -> Exit {
        let mut exits = exits.into_iter();
        let Some(first) = exits.next() else {
            return Exit::Done;
        };
        if exits.all(|exit| exit == first) {
            first
        } else {
            Exit::Failed
        }
    }
}

impl fmt::Display for Failure {
    /// The message and the whole chain of causes, without what was said already.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut said = self.message.clone();
        let mut cause = self
            .source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static));
        while let Some(error) = cause {
            let text = error.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_the_message_once() {
        let inner = io::Error::new(io::ErrorKind::NotFound, "no such socket");
        let failure = Failure::unreachable("cannot connect")
            .caused_by(inner)
            .hint("start it");
        assert_eq!(failure.to_string(), "cannot connect: no such socket");
        assert_eq!(failure.next_step(), Some("start it"));
        let repeated = Failure::failed("a: b").caused_by(io::Error::other("b"));
        assert_eq!(repeated.to_string(), "a: b");
    }

    #[test]
    fn only_a_reader_that_went_away_is_a_broken_pipe() {
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(
            Failure::failed("cannot write")
                .caused_by(pipe)
                .is_broken_pipe()
        );
        assert!(
            !Failure::failed("cannot write")
                .caused_by(io::Error::other("x"))
                .is_broken_pipe()
        );
        assert!(!Failure::failed("cannot write").is_broken_pipe());
    }

    #[test]
    fn several_failures_share_an_exit_code_only_when_they_agree() {
        assert_eq!(Failure::exit_of_all([]), Exit::Done);
        assert_eq!(
            Failure::exit_of_all([Exit::Refused, Exit::Refused]),
            Exit::Refused
        );
        assert_eq!(
            Failure::exit_of_all([Exit::Refused, Exit::NotFound]),
            Exit::Failed
        );
    }

    #[test]
    fn exit_codes_are_the_documented_numbers() {
        let codes = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::NotFound,
            Exit::Unreachable,
            Exit::Refused,
        ];
        assert_eq!(codes.map(|code| code as u8), [0, 1, 2, 3, 4, 5]);
    }
}
