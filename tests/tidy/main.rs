//! The house rules as a test: what no compiler holds, this suite does.
//!
//! Each check is a function from a [`Tree`](tree::Tree) (or from Cargo's metadata) to a list of
//! findings, empty when the rule is kept. Beside each stands a test that feeds it a broken example:
//! a check that cannot fail proves nothing.

mod documents;
mod floors;
mod golden;
mod lints;
mod sources;
mod tree;
mod words;

/// Fails with every finding on a line of its own.
#[track_caller]
fn assert_kept(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

/// Proves that a check sees the fault it exists for, and names the place.
#[track_caller]
fn assert_seen(findings: &[String], needle: &str) {
    assert!(
        findings.iter().any(|finding| finding.contains(needle)),
        "the check did not report {needle:?}; it said: {findings:?}"
    );
}
