#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod clock;
mod database;
mod decide;
mod error;
mod fleet;
mod handover;
mod home;
mod inspect;
mod lane;
pub mod limits;
mod pace;
mod prepare;
mod process;
mod progress;
mod remote;
mod requests;
mod rewind;
mod root;
mod stage;
mod status;
mod target;
mod timing;
mod upkeep;
mod volume;

pub use error::{Class, CommandError, PrepareError, StageError, chain};
pub use fleet::end::DrainReport;
pub use fleet::{Fleet, FleetConfig, StartError};
pub use handover::{NoLookup, PodAnswer, PodHandle, PodLife, PodLookup};
pub use inspect::{Proof, QUICK_CHECK_VERB, QuickCheck, quick_check_process};
pub use lane::{Identity, LaneError};
pub use prepare::Prepared;
pub use requests::{
    BranchSummary, FileSummary, History, ReadProgress, ReplicaSummary, RestoreInfo, RestorePart,
    RestoreStream,
};
pub use rewind::{REWIND_VERB, Rewound, Wanted, rewind_process};
pub use root::{RootHealth, RootMemory, RootProbe};
pub use sqlrep_capture::{demo, give_back_memory, sqlite_version};
pub use sqlrep_format::{Crc64, Timestamp, Txid, TxidRange};
pub use sqlrep_replica::{DbId, Ownership, Point, Verified};
pub use stage::restore::RestoredDatabase;
pub use status::{Counters, DatabaseStatus, ReplicaStatus, State};
pub use target::{NodeMemory, TargetAnswer, TargetMemory};
pub use timing::{BUCKETS, Histogram, NfsCalls, NfsOp};
pub use volume::{
    JournalPolicy, Key, Medium, PodIdentity, RestorePolicy, Settings, TargetPlace, TargetVolume,
    Volume,
};
