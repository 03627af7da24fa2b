//! What adoption needs from the flow: the fleet in life, a recorder in tests.

use std::future::Future;
use std::path::Path;

use sqlrep_pipeline::{DatabaseStatus, Fleet, PrepareError, Prepared, Volume};

/// The calls of [`Fleet`] that adoption makes.
pub(crate) trait Flow: Clone + Send + Sync + 'static {
    /// A pod exists.
    fn register(&self, pod_uid: &str);
    /// Every pod of this node has been registered once.
    fn ready(&self);
    /// Puts a volume's databases back before their app starts.
    fn prepare(
        &self,
        volume: &Volume,
    ) -> impl Future<Output = Result<Prepared, PrepareError>> + Send;
    /// Follows a database, whose inode is claimed.
    fn adopt(&self, volume: &Volume, path: &Path);
    /// Something was written.
    fn touch(&self, pod_uid: &str, volume: &str, path: &Path);
    /// Anything may have been written.
    fn touch_all(&self);
    /// The file is gone, its pod is not.
    fn vanished(&self, pod_uid: &str, volume: &str, path: &Path);
    /// The pod terminates: nothing is created in its volumes any more.
    fn ending(&self, pod_uid: &str);
    /// The pod's files are gone, or will not be written any more: returns when every descriptor
    /// is closed.
    fn release(&self, pod_uid: &str) -> impl Future<Output = ()> + Send;
    /// What is known of each database.
    fn list(&self) -> Vec<DatabaseStatus>;
}

impl Flow for Fleet {
    fn register(&self, pod_uid: &str) {
        Fleet::register(self, pod_uid);
    }

    fn ready(&self) {
        Fleet::ready(self);
    }

    async fn prepare(&self, volume: &Volume) -> Result<Prepared, PrepareError> {
        Fleet::prepare(self, volume).await
    }

    fn adopt(&self, volume: &Volume, path: &Path) {
        Fleet::adopt(self, volume, path);
    }

    fn touch(&self, pod_uid: &str, volume: &str, path: &Path) {
        Fleet::touch(self, pod_uid, volume, path);
    }

    fn touch_all(&self) {
        Fleet::touch_all(self);
    }

    fn vanished(&self, pod_uid: &str, volume: &str, path: &Path) {
        Fleet::vanished(self, pod_uid, volume, path);
    }

    fn ending(&self, pod_uid: &str) {
        Fleet::ending(self, pod_uid);
    }

    async fn release(&self, pod_uid: &str) {
        Fleet::release(self, pod_uid).await;
    }

    fn list(&self) -> Vec<DatabaseStatus> {
        Fleet::list(self)
    }
}
