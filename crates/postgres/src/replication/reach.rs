//! Where the library connects to.

use realtime_tls::{DialError, Edit, Relay, TlsMode};

use super::ReplicationError;
use crate::DatabaseConfig;

/// Where the library is to connect: to the server itself, or to a connection that we have made because it is to be
/// encrypted or to go to certain addresses.
pub(super) async fn reach(config: &DatabaseConfig) -> Result<(String, u16), ReplicationError> {
    if config.route.is_direct() && !config.old_server {
        return Ok((config.host.clone(), config.port));
    }
    if !config.old_server && config.route.tls.mode() == TlsMode::Disable {
        let address = config.route.resolve(&config.host, config.port).await?;
        return Ok((address.ip().to_string(), address.port()));
    }
    let stream = config.route.dial(&config.host, config.port).await?;
    let edit = config.old_server.then_some(without_messages as Edit);
    let relay = Relay::open_edited(stream, edit).map_err(DialError::Io)?;
    Ok((relay.host().display().to_string(), relay.port()))
}

/// The library asks for the messages of `pg_logical_emit_message`, which servers before version 14 refuse.
fn without_messages(query: &str) -> Option<String> {
    query.starts_with("START_REPLICATION ").then(|| query.replacen(", messages 'true'", "", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_asked_for_less() {
        let query = "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p', messages 'true')";
        let expected = "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')";
        assert_eq!(without_messages(query).as_deref(), Some(expected));
        assert_eq!(without_messages("select 1, messages 'true'"), None);
    }
}
