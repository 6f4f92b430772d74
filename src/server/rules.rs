//! What clients may do, as the configuration says.

use std::sync::Arc;

use tracing::warn;

use super::ServerError;
use crate::acl::Acl;
use crate::config::{Config, ListenerConfig};

/// Reads the ACL file, if there is one; `None` if everybody may do everything.
///
/// # Errors
/// If the file cannot be used.
pub(super) fn load(config: &Config) -> Result<Option<Arc<Acl>>, ServerError> {
    let Some(file) = &config.access.acl_file else {
        // Where only this machine's own clients come, there is nothing to keep from them.
        let is_local = |listener: &ListenerConfig| {
            listener.allow_anonymous && listener.bind.is_local() && listener.proxies.is_none()
        };
        let rules = || Arc::new(Acl::without_file(&config.access.admins));
        // But a token may say of its bearer that it may do less.
        let is_free = config.listeners.iter().all(is_local) && config.auth.jwt.is_none();
        return Ok((!is_free).then(rules));
    };
    let acl = Acl::load(file).map_err(ServerError::Acl)?;
    for (line, doubt) in acl.doubts() {
        warn!(file = %file.display(), line, "{doubt}");
    }
    Ok(Some(Arc::new(acl)))
}
