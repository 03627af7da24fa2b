//! Every call of the contract, from its descriptor: one that is added is among them.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};
use sqlrep_proto::v1;

/// A call.
#[derive(Clone, Debug)]
pub(crate) struct Method {
    /// `/package.Service/Method`.
    pub(crate) path: String,
    /// Whether its answer is a stream.
    pub(crate) streams: bool,
    input: String,
}

/// The calls, and what their messages are made of.
pub(crate) struct Contract {
    /// The calls.
    pub(crate) methods: Vec<Method>,
    messages: BTreeMap<String, DescriptorProto>,
}

impl Contract {
    /// As the build compiled it.
    pub(crate) fn read() -> Self {
        let set = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
        let (mut methods, mut messages) = (Vec::new(), BTreeMap::new());
        for file in &set.file {
            let package = file.package();
            for message in &file.message_type {
                let name = format!(".{package}.{}", message.name());
                messages.insert(name, message.clone());
            }
            for service in &file.service {
                methods.extend(service.method.iter().map(|method| Method {
                    path: format!("/{package}.{}/{}", service.name(), method.name()),
                    streams: method.server_streaming(),
                    input: method.input_type().to_owned(),
                }));
            }
        }
        Self { methods, messages }
    }

    /// A valid message for a call: this text in every string, the largest number in every number, each
    /// list of two.
    pub(crate) fn message(&self, method: &Method, text: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&method.input, &|_| Some(text), &mut bytes);
        bytes
    }

    /// A message that names the replica which is there, and its latest state.
    pub(crate) fn good(&self, method: &Method) -> Vec<u8> {
        let mut bytes = Vec::new();
        let text = |field: &str| -> Option<&'static [u8]> {
            match field {
                "namespace" => Some(b"media"),
                "app" => Some(b"app"),
                "volume" => Some(b"data"),
                "path" => Some(b"x.db"),
                "database" | "databases" => Some(b""),
                _ => None,
            }
        };
        self.write(&method.input, &text, &mut bytes);
        bytes
    }

    fn write<'t>(&self, name: &str, text: &dyn Fn(&str) -> Option<&'t [u8]>, bytes: &mut Vec<u8>) {
        for field in &self.messages[name].field {
            let Some(value) = text(field.name()) else {
                continue;
            };
            let times = if field.label() == Label::Repeated {
                2
            } else {
                1
            };
            let number = u64::try_from(field.number()).unwrap() << 3;
            for _ in 0..times {
                match field.r#type() {
                    Type::String | Type::Bytes => {
                        varint(number | 2, bytes);
                        varint(value.len() as u64, bytes);
                        bytes.extend_from_slice(value);
                    }
                    Type::Message => {
                        let mut inner = Vec::new();
                        self.write(field.type_name(), text, &mut inner);
                        varint(number | 2, bytes);
                        varint(inner.len() as u64, bytes);
                        bytes.extend(inner);
                    }
                    Type::Uint64 | Type::Int64 | Type::Uint32 | Type::Int32 | Type::Bool => {
                        varint(number, bytes);
                        varint(u64::MAX, bytes);
                    }
                    other => panic!("requests have no {other:?} so far: {field:?}"),
                }
            }
        }
    }
}

fn varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value > 0x7f {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
}
