//! A port-forward: bytes to the loopback of an agent's pod, through the API and the kubelet.
//!
//! Nothing listens on this machine meanwhile: the stream goes straight into the gRPC client.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use super::pods::Spec;

/// Where agents listen, unless their pod says otherwise.
const PORT: u16 = 7077;
/// A kubelet that has something to say has said it when its stream breaks; the tasks that hear it
/// may still have to run.
const COMPLAINT: Duration = Duration::from_secs(1);

/// The road to one agent.
#[derive(Clone)]
pub(crate) struct Forward {
    pods: Api<Pod>,
    node: String,
    pod: String,
    port: u16,
    /// What the kubelet said last of why it cannot forward; `None` while it may still speak.
    complaint: Arc<watch::Sender<Option<String>>>,
}

impl PartialEq for Forward {
    fn eq(&self, other: &Self) -> bool {
        (&self.pod, self.port) == (&other.pod, other.port)
    }
}

impl Eq for Forward {}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pod {})", self.node, self.pod)
    }
}

impl Forward {
    pub(super) fn new(pods: Api<Pod>, node: &str, pod: &str, port: Option<u16>) -> Self {
        Self {
            pods,
            node: node.to_owned(),
            pod: pod.to_owned(),
            port: port.unwrap_or(PORT),
            complaint: Arc::new(watch::Sender::new(Some(String::new()))),
        }
    }

    /// A new stream to the agent's port.
    pub(crate) async fn open(
        &self,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>> {
        let forwarded = self.pods.portforward(&self.pod, &[self.port]).await;
        let mut forwarded = forwarded.map_err(io::Error::other)?;
        if let Some(complaint) = forwarded.take_error(self.port) {
            let kept = Arc::clone(&self.complaint);
            kept.send_replace(None);
            // Ends with the stream.
            tokio::spawn(async move {
                let text = complaint.await.unwrap_or_default();
                kept.send_replace(Some(text));
            });
        }
        forwarded
            .take_stream(self.port)
            .ok_or_else(|| io::Error::other("the port was not forwarded"))
    }

    /// What the kubelet said of why it cannot forward; empty when nothing.
    pub(crate) async fn complaint(&self) -> String {
        let mut said = self.complaint.subscribe();
        match timeout(COMPLAINT, said.wait_for(Option::is_some)).await {
            Ok(Ok(text)) => text.as_deref().unwrap_or_default().trim().to_owned(),
            // It says nothing.
            Ok(Err(_)) | Err(_) => String::new(),
        }
    }
}

/// The loopback port that the agent's container is told to listen on.
pub(super) fn port_of(spec: &Spec) -> Option<u16> {
    let container = spec
        .containers
        .iter()
        .find(|container| container.name == "agent")
        .or(spec.containers.first())?;
    let variables = container.env.iter();
    let listen = variables.filter(|variable| variable.name == "SQLREP_LISTEN");
    let values = listen.filter_map(|variable| variable.value.as_deref());
    let arguments = container.command.iter().chain(&container.args);
    arguments
        .map(String::as_str)
        .chain(values)
        .flat_map(|text| text.trim_start_matches("--listen=").split(','))
        .find_map(|text| text.strip_prefix("127.0.0.1:")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::super::pods::{Container, Variable};
    use super::*;

    fn spec(args: &[&str], env: Option<&str>) -> Spec {
        let env = env.map(|value| Variable {
            name: "SQLREP_LISTEN".to_owned(),
            value: Some(value.to_owned()),
        });
        let agent = Container {
            name: "agent".to_owned(),
            args: args.iter().map(|&text| text.to_owned()).collect(),
            env: env.into_iter().collect(),
            ..Container::default()
        };
        Spec {
            containers: vec![Container::default(), agent],
            ..Spec::default()
        }
    }

    #[test]
    fn the_port_is_the_one_that_the_agent_is_told() {
        let unix = "--listen=unix:/var/lib/sqlrep/agent.sock";
        assert_eq!(port_of(&spec(&["run", unix], None)), None);
        let args = ["run", unix, "--listen=127.0.0.1:7000"];
        assert_eq!(port_of(&spec(&args, None)), Some(7000));
        let args = ["run", "--listen", "127.0.0.1:7001"];
        assert_eq!(port_of(&spec(&args, None)), Some(7001));
        let env = Some("unix:/x,127.0.0.1:7002");
        assert_eq!(port_of(&spec(&[], env)), Some(7002));
        assert_eq!(port_of(&Spec::default()), None);
    }
}
