//! What a call does, as RBAC names it. The table is in the README of `sqlrep-proto`.

use std::fmt;

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Deed {
    /// Ask the agent how it fares.
    Info,
    /// See databases and replicas.
    List,
    /// See what a replica holds.
    History,
    /// Capture and ship now.
    Sync,
    /// Write a snapshot now.
    Snapshot,
    /// Read a replica back.
    Verify,
    /// Have the content of a database.
    Restore,
    /// Put a running database back to an earlier state.
    Rewind,
    /// Make a waiting pod the owner.
    TakeOver,
    /// Take a database into the replica.
    Adopt,
}

impl Deed {
    /// The verb of the permission.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Info | Self::History | Self::Restore => "get",
            Self::List => "list",
            Self::Sync | Self::Snapshot | Self::Verify => "create",
            Self::Rewind | Self::TakeOver | Self::Adopt => "update",
        }
    }

    /// The subresource of `replicas`; empty: the resource itself.
    pub(crate) fn subresource(self) -> &'static str {
        match self {
            Self::List | Self::History => "",
            Self::Info => "agent",
            Self::Sync => "sync",
            Self::Snapshot => "snapshot",
            Self::Verify => "verify",
            Self::Restore | Self::Rewind => "restore",
            Self::TakeOver => "takeover",
            Self::Adopt => "adopt",
        }
    }

    /// The resource as a role writes it.
    pub(crate) fn resource(self) -> String {
        match self.subresource() {
            "" => "replicas".to_owned(),
            subresource => format!("replicas/{subresource}"),
        }
    }

    /// Whether something is different afterwards: such a deed is logged with its doer.
    pub(crate) fn changes(self) -> bool {
        matches!(self.verb(), "create" | "update")
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.sqlrep.io", self.verb(), self.resource())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_in_the_contract_says_the_same() {
        let readme = include_str!("../../../../proto/README.md");
        for (call, deed) in [
            ("Agent.Info", Deed::Info),
            ("Databases.List", Deed::List),
            ("Databases.Watch", Deed::List),
            ("Replicas.List", Deed::List),
            ("Databases.History", Deed::History),
            ("Databases.Sync", Deed::Sync),
            ("Databases.Snapshot", Deed::Snapshot),
            ("Databases.Verify", Deed::Verify),
            ("Databases.Restore", Deed::Restore),
            ("Databases.RestoreInPlace", Deed::Rewind),
            ("Databases.Takeover", Deed::TakeOver),
            ("Databases.Adopt", Deed::Adopt),
        ] {
            let row = readme
                .lines()
                .find(|line| line.starts_with("| ") && line.contains(&format!("`{call}`")))
                .unwrap_or_else(|| panic!("{call} has no row"));
            let end = format!("| `{}` | `{}` |", deed.verb(), deed.resource());
            assert!(row.contains(&end), "{call}: {row} lacks {end}");
        }
    }
}
