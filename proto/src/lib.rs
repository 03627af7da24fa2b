#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

/// Package `sqlrep.v1`: messages, clients and servers, as the build generates them.
#[expect(
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    unused_qualifications,
    reason = "generated code keeps its generator's house rules"
)]
pub mod v1 {
    tonic::include_proto!("sqlrep.v1");

    /// The encoded file descriptor set, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("sqlrep.v1");
}
