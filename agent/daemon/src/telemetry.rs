//! Log lines on stderr, as text or JSON; `RUST_LOG` chooses which.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::time::SystemTime;

use clap::ValueEnum as _;
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// What is shown when `RUST_LOG` is not set.
const DEFAULT_FILTER: &str = "info";

/// How this process was told to write.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Starts logging for this process. A second start (tests, the demo) changes nothing.
pub(crate) fn start(format: LogFormat) {
    write_as(format);
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => builder.try_init(),
        // Not flat: events have fields of their own called level and target.
        LogFormat::Json => builder.json().try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging had been started before");
    }
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    if let Err(error) = EnvFilter::try_new(&wanted) {
        tracing::warn!(err = %error, "RUST_LOG is not understood: everything from INFO on is shown");
    }
}

/// From now on everything that goes to stderr has this format: what is said before logging starts
/// and after it ended, and panics, are lines like the others.
pub(crate) fn write_as(format: LogFormat) {
    if FORMAT.set(format).is_ok() && format == LogFormat::Json {
        panic::set_hook(Box::new(|info| say(&panicked(info))));
    }
}

/// What arguments that are not understood, or the environment, say of the format.
pub(crate) fn format_in(args: &[OsString]) -> LogFormat {
    let mut args = args.iter().filter_map(|arg| arg.to_str());
    let mut found = None;
    while let Some(arg) = args.next() {
        match arg.strip_prefix("--log-format") {
            Some("") => found = args.next().map(str::to_owned),
            Some(rest) => found = rest.strip_prefix('=').map(str::to_owned),
            None => {}
        }
    }
    let word = found.or_else(|| std::env::var("SQLREP_LOG_FORMAT").ok());
    let format = word.and_then(|word| LogFormat::from_str(&word, true).ok());
    format.unwrap_or(LogFormat::Text)
}

/// Says on stderr why nothing was done, whatever `RUST_LOG` hides.
pub(crate) fn complain(message: &str) {
    match FORMAT.get() {
        Some(LogFormat::Json) => say(&line(message)),
        Some(LogFormat::Text) | None => {
            // Nobody is left to be told that the terminal is gone.
            drop(writeln!(io::stderr(), "error: {message}"));
        }
    }
}

fn line(message: &str) -> Value {
    let now = humantime::format_rfc3339_micros(SystemTime::now());
    json!({
        "timestamp": now.to_string(), "level": "ERROR", "fields": {"message": message}, "target": "sqlrep_agent",
    })
}

fn panicked(info: &PanicHookInfo<'_>) -> Value {
    let what = info.payload_as_str().unwrap_or("(no words)");
    let mut line = line(&format!("a bug: {what}"));
    let fields = &mut line["fields"];
    fields["at"] = info.location().map(ToString::to_string).into();
    fields["thread"] = std::thread::current().name().into();
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        fields["backtrace"] = trace.to_string().into();
    }
    line
}

/// One line, written at once.
fn say(line: &Value) {
    // Nobody is left to be told that the terminal is gone.
    drop(io::stderr().write_all(format!("{line}\n").as_bytes()));
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_format_is_known_from_arguments_that_are_not_understood() {
        let of = |args: &[&str]| format_in(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(
            of(&["a", "run", "--log-format", "json", "--wrong"]),
            LogFormat::Json
        );
        assert_eq!(of(&["a", "run", "--log-format=json"]), LogFormat::Json);
        assert_eq!(of(&["a", "run", "--log-format"]), LogFormat::Text);
        assert_eq!(of(&["a", "run", "--log-formats=json"]), LogFormat::Text);
    }

    #[test]
    #[ignore = "panics: a_panic_is_a_line_of_json runs it in a process of its own"]
    fn panics() {
        start(LogFormat::Json);
        let thread = std::thread::Builder::new().name("lane".into());
        let ended = thread
            .spawn(|| panic!("two\nlines \"quoted\""))
            .unwrap()
            .join();
        assert!(ended.is_err());
        complain("and then\nit ended");
    }

    #[test]
    fn a_panic_is_a_line_of_json() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--ignored",
            "--exact",
            "telemetry::tests::panics",
            "--nocapture",
        ]);
        let said = command.env("RUST_BACKTRACE", "1").output().unwrap();
        let said = String::from_utf8(said.stderr).unwrap();
        let lines: Vec<Value> = said
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "{said}");
        assert_eq!(
            lines[0]["fields"]["message"], "a bug: two\nlines \"quoted\"",
            "{said}"
        );
        assert_eq!(lines[0]["fields"]["thread"], "lane");
        assert!(
            lines[0]["fields"]["at"]
                .as_str()
                .unwrap()
                .contains("telemetry.rs:"),
            "{said}"
        );
        assert!(
            lines[0]["fields"]["backtrace"]
                .as_str()
                .unwrap()
                .contains("panics"),
            "{said}"
        );
        assert_eq!(lines[1]["fields"]["message"], "and then\nit ended");
        assert!(lines.iter().all(|line| line["level"] == "ERROR"), "{said}");
    }
}
