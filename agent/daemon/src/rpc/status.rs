//! Errors of the flow → google.rpc codes, in one place each.

use sqlrep_pipeline::CommandError;
use sqlrep_proto::v1;
use tonic::{Code, Status};

/// The code of an error; `sqlrepctl` makes its exit code of it (see the contract's README).
pub(super) fn code(error: &CommandError) -> Code {
    match error {
        CommandError::NotFound(_) => Code::NotFound,
        CommandError::Invalid(_) => Code::InvalidArgument,
        CommandError::Refused(_) => Code::FailedPrecondition,
        CommandError::Deadline(_) => Code::DeadlineExceeded,
        // The agent answers: what does not is the NAS or the database, and another agent would
        // fare no better.
        CommandError::Unavailable(_) | CommandError::Failed(_) => Code::Internal,
    }
}

/// What a message may have of characters: a header holds it, escaped, and clients take 16 KiB of those.
const MESSAGE_CHARS_MAX: usize = 1000;

/// A message of bounded length, which may have in it what a caller has sent.
pub(super) fn bounded(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARS_MAX) {
        message.truncate(end);
        message.push('…');
    }
    message
}

/// The error as the end of a call.
pub(super) fn of(error: &CommandError) -> Status {
    Status::new(code(error), bounded(error.to_string()))
}

/// The error as the end of one database of a call on several.
pub(super) fn failure(error: &CommandError) -> v1::Failure {
    from_status(&of(error))
}

/// A status as the end of one database of a call on several.
pub(super) fn from_status(status: &Status) -> v1::Failure {
    v1::Failure {
        code: i32::from(status.code()),
        message: status.message().to_owned(),
    }
}

/// What this build cannot do.
pub(super) fn not_yet(what: &str) -> Status {
    Status::unimplemented(format!(
        "{what} is not available in this build of the agent yet"
    ))
}
