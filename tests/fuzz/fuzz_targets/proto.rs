//! Any bytes as a request, or as an answer: what is decoded is encoded as the same, and a database's
//! name in it is one that the agent could have given.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use sqlrep_proto::v1;

fn decode<M: Message + Default>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else {
        return;
    };
    let again = message.encode_to_vec();
    let decoded = M::decode(again.as_slice()).expect("what was encoded");
    // By their bytes, for a float may be no number, which is not equal to itself; in any order, for the
    // entries of a map have none.
    assert_eq!(sorted(decoded.encode_to_vec()), sorted(again));
}

fn sorted(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.sort_unstable();
    bytes
}

macro_rules! all {
    ($bytes:expr, $kind:expr, $($message:ident)*) => {{
        let decoders: &[fn(&[u8])] = &[$(decode::<v1::$message>,)*];
        decoders[usize::from($kind) % decoders.len()]($bytes);
    }};
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    all!(
        bytes, *kind,
        InfoRequest ListRequest WatchRequest HistoryRequest SyncRequest SnapshotRequest VerifyRequest
        RestoreRequest RestoreInPlaceRequest TakeoverRequest AdoptRequest ListReplicasRequest
        DatabaseId Point Database WatchResponse HistoryResponse RestoreResponse VerifyResponse
        InfoResponse Replica
    );
});
