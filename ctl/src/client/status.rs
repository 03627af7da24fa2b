//! google.rpc codes → exit codes. The one place; the table is in the README of `sqlrep-proto`.

use std::error::Error;

use tonic::{Code, Status, TimeoutExpired};

use super::endpoint::causes;
use crate::failure::{Exit, Failure};

/// The exit code that a status means.
pub(super) fn exit_of(code: Code) -> Exit {
    match code {
        Code::Ok => Exit::Done,
        Code::InvalidArgument => Exit::Usage,
        Code::NotFound | Code::OutOfRange => Exit::NotFound,
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::PermissionDenied
        | Code::Unauthenticated => Exit::Refused,
        Code::Cancelled
        | Code::Unknown
        | Code::ResourceExhausted
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => Exit::Failed,
    }
}

/// What the agent answered, or that it did not.
pub(super) fn failure(what: &str, status: &Status) -> Failure {
    // A status that the agent sent has no source; one that the transport made up has.
    if let Some(source) = Error::source(status) {
        if causes(source).any(<dyn Error>::is::<TimeoutExpired>) {
            return too_late(what);
        }
        let because = causes(source)
            .last()
            .map(ToString::to_string)
            .unwrap_or_default();
        return Failure::unreachable(format!("{what}: lost the agent: {because}")).hint(LOST);
    }
    answered(what, status.code(), status.message())
}

/// The next step when an agent that was there is so no more. A server of TLS that does not take our
/// certificate, or hears none, says so by closing; what that looks like here depends on who was faster:
/// a reset, a closed channel, an alert that is no HTTP/2 frame.
const LOST: &str = "see whether it still runs, then try again; over the network both must speak TLS \
                    (--tls-ca), and its --client-ca must have signed our --tls-cert, which must not \
                    have expired";

/// What the agent answered.
pub(super) fn answered(what: &str, code: Code, message: &str) -> Failure {
    let exit = match exit_of(code) {
        // A failure with the code of success is a failure of the agent.
        Exit::Done => Exit::Failed,
        exit => exit,
    };
    let message = if message.is_empty() {
        code.description()
    } else {
        message
    };
    let failure = Failure::new(exit, format!("{what}: {message}"));
    match code {
        Code::Unimplemented => {
            failure.hint("this agent cannot do it; `sqlrepctl version` shows how old it is")
        }
        Code::Unauthenticated => failure.hint("set SQLREP_TOKEN"),
        Code::DeadlineExceeded => failure.hint("give it longer with --timeout"),
        _ => failure,
    }
}

/// Nothing came in time.
pub(super) fn too_late(what: &str) -> Failure {
    Failure::unreachable(format!("{what}: no answer in time")).hint("give it longer with --timeout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_the_documented_exit_codes() {
        use Code::*;
        for (codes, exit) in [
            (vec![Ok], Exit::Done),
            (
                vec![
                    Internal,
                    DataLoss,
                    ResourceExhausted,
                    Unimplemented,
                    Cancelled,
                    Unknown,
                ],
                Exit::Failed,
            ),
            (vec![InvalidArgument], Exit::Usage),
            (vec![NotFound, OutOfRange], Exit::NotFound),
            (vec![Unavailable, DeadlineExceeded], Exit::Unreachable),
            (
                vec![
                    AlreadyExists,
                    FailedPrecondition,
                    Aborted,
                    PermissionDenied,
                    Unauthenticated,
                ],
                Exit::Refused,
            ),
        ] {
            for code in codes {
                assert_eq!(exit_of(code), exit, "{code:?}");
            }
        }
    }

    #[test]
    fn the_table_in_the_contract_says_the_same() {
        // Rows of the README: "| 3 | not found | `NOT_FOUND` (…), `OUT_OF_RANGE` (…) |".
        let readme = include_str!("../../../proto/README.md");
        let mut seen = 0;
        for code in (0..17).map(Code::from_i32) {
            let name = format!("`{}`", screaming(code));
            let row = readme
                .lines()
                .find(|line| line.starts_with("| ") && line.contains(&name));
            let row = row.unwrap_or_else(|| panic!("{name} has no row"));
            assert!(
                row.starts_with(&format!("| {} |", exit_of(code) as u8)),
                "{name}: {row}"
            );
            seen += 1;
        }
        assert_eq!(seen, 17);
    }

    fn screaming(code: Code) -> String {
        let mut name = String::new();
        for letter in format!("{code:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_uppercase());
        }
        name
    }

    #[test]
    fn a_failure_with_code_ok_is_still_a_failure() {
        assert_eq!(answered("x", Code::Ok, "").exit, Exit::Failed);
    }
}
