//! Sockets: made so that nobody else can use them, and taken away at the end.

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, UnixListener};

/// Connections that wait for being accepted.
const BACKLOG: i32 = 128;

/// For the owner only.
const SOCKET_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// For the directory of a socket, when it has to be made.
const DIRECTORY_MODE: u32 = 0o700;

/// Why an address cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ListenError {
    /// Another process answers there.
    #[error(
        "{flag} {address}: another process is serving there; stop it, or choose another address"
    )]
    InUse {
        /// The flag that named it.
        flag: &'static str,
        /// The address.
        address: String,
    },
    /// Something that is no socket lies there.
    #[error("{flag} unix:{path}: there is a file that is not a socket; move it away, or choose another path", path = path.display())]
    NotASocket {
        /// The flag that named it.
        flag: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The system said no.
    #[error("{flag} {address}: cannot {action}")]
    Io {
        /// The flag that named it.
        flag: &'static str,
        /// The address.
        address: String,
        /// What was attempted.
        action: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// A unix socket that is served; its file goes away with it.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl UnixSocket {
    /// The listener, once.
    pub(crate) fn take(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        self.listener = None;
        // The socket of a later server answers, and is left alone.
        if is_stale(&self.path) {
            // The next start replaces a stale socket, so failing here costs nothing.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Serves a unix socket, for the owner of this process only.
///
/// A socket whose server is gone is replaced; one that is served is refused.
pub(crate) fn unix(flag: &'static str, path: &Path) -> Result<UnixSocket, ListenError> {
    let address = || format!("unix:{}", path.display());
    let failed = |action| {
        move |source: io::Error| ListenError::Io {
            flag,
            address: address(),
            action,
            source,
        }
    };
    make_directory(path).map_err(failed("make its directory"))?;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at it")(error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ListenError::NotASocket {
                flag,
                path: path.to_path_buf(),
            });
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => {
                return Err(ListenError::InUse {
                    flag,
                    address: address(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed("replace the stale socket"))?;
            }
            Err(error) => return Err(failed("see whether it is served")(error)),
        },
    }
    let listener = bind(path).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse {
            flag,
            address: address(),
        },
        _ => failed("listen")(error),
    })?;
    Ok(UnixSocket {
        listener: Some(listener),
        path: path.to_path_buf(),
    })
}

/// Serves a TCP address.
pub(crate) async fn tcp(
    flag: &'static str,
    address: SocketAddr,
) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse {
                flag,
                address: address.to_string(),
            },
            _ => ListenError::Io {
                flag,
                address: address.to_string(),
                action: "listen",
                source,
            },
        })
}

/// Binds with the final mode from the first moment: the kernel takes a socket file's mode from
/// the socket itself, so there is no instant at which others may connect.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, SOCKET_MODE)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}

fn make_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(parent),
        _ => Ok(()),
    }
}

/// Whether nobody answers there any more.
fn is_stale(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const FLAG: &str = "--listen";

    #[tokio::test]
    async fn a_socket_is_for_its_owner_only_and_goes_away_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/agent.sock");
        let socket = unix(FLAG, &path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_served_socket_is_refused_and_a_stale_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let mut first = unix(FLAG, &path).unwrap();
        let refused = unix(FLAG, &path).unwrap_err();
        assert!(matches!(refused, ListenError::InUse { .. }), "{refused}");
        drop(first.take());
        let second = unix(FLAG, &path).unwrap();
        drop(first);
        assert!(
            path.exists(),
            "the first server took the second one's socket away"
        );
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_in_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(
            unix(FLAG, &path),
            Err(ListenError::NotASocket { .. })
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_taken_port_is_refused_with_its_address() {
        let first = tcp(FLAG, "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local_addr().unwrap();
        let refused = tcp(FLAG, address).await.unwrap_err().to_string();
        assert!(
            refused.contains(&format!("--listen {address}")),
            "{refused}"
        );
    }
}
