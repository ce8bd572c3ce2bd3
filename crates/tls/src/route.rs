//! How a database is reached.

use std::{io, net::SocketAddr, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod};
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::{net::lookup_host, task::JoinHandle};
use tokio_postgres::{
    Client, Config, Connection, Socket,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    error::DialError,
    ip_version::IpVersion,
    mode::{Tls, TlsMode},
    unreachable::Unreachable,
};

/// How long a peer that should answer may be silent before the connection counts as broken.
pub(crate) const PEER_LIMIT: Duration = Duration::from_secs(30);

/// The transport of a connection for queries.
pub type PgStream = <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream;

/// How a database is reached: whether encrypted, what its server has to prove, over which addresses. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Route {
    /// TLS.
    pub tls: Tls,
    /// Addresses.
    pub ip_version: IpVersion,
}

impl Route {
    /// Whether a plain connection to any address is enough.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.tls.mode() == TlsMode::Disable && self.ip_version == IpVersion::Any
    }

    /// Connects for queries. The `Connection` has to be polled, in a task of its own, for the client to work.
    ///
    /// # Errors
    /// As `tokio_postgres` has them. That a name has no address of the wanted kind is one of them.
    pub async fn connect(
        &self,
        config: &Config,
    ) -> Result<(Client, Connection<Socket, PgStream>), tokio_postgres::Error> {
        let mut config = config.clone();
        // Lets the system notice a peer that vanished.
        config.keepalives_idle(PEER_LIMIT).tcp_user_timeout(PEER_LIMIT);
        config.ssl_mode(match self.tls.mode() {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
        if self.ip_version != IpVersion::Any {
            config = match self.with_addresses(&config).await {
                Ok(config) => config,
                Err(error) => return Err(Unreachable::new(error).refuse(&config).await),
            };
        }
        config.connect(MakeRustlsConnect::new(self.tls.client().as_ref().clone())).await
    }

    /// What makes the connections of a `deadpool` pool.
    #[must_use]
    pub fn manager(&self, config: Config) -> Manager {
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        Manager::from_connect(config, self.clone(), recycling)
    }

    /// The first address of a host that may be used.
    ///
    /// # Errors
    /// [`DialError`] when there is none.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, DialError> {
        let first = self.addresses(host, port).await?.first().copied();
        first.ok_or_else(|| DialError::NoAddress { host: host.to_owned(), version: self.ip_version })
    }

    /// The addresses of a host that may be used, at least one.
    pub(crate) async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
        let unknown =
            |error: io::Error| DialError::Name { host: host.to_owned(), problem: error.to_string() };
        let all = lookup_host((host, port)).await.map_err(unknown)?;
        let found: Vec<_> = all.filter(|address| self.ip_version.allows(*address)).collect();
        if found.is_empty() {
            return Err(DialError::NoAddress { host: host.to_owned(), version: self.ip_version });
        }
        Ok(found)
    }

    /// Adds addresses to the settings. The names stay: certificates are compared with them.
    async fn with_addresses(&self, config: &Config) -> Result<Config, DialError> {
        let mut addressed = config.clone();
        let [Host::Tcp(host)] = config.get_hosts() else { return Ok(addressed) };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        for (i, address) in self.addresses(host, port).await?.into_iter().enumerate() {
            if i > 0 {
                addressed.host(host);
            }
            addressed.hostaddr(address.ip());
        }
        Ok(addressed)
    }
}

impl deadpool_postgres::Connect for Route {
    fn connect(
        &self,
        config: &Config,
    ) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        let config = config.clone();
        async move {
            let (client, connection) = Self::connect(self, &config).await?;
            let task = tokio::spawn(async move {
                // The statement that fails tells the client too.
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection ended");
                }
            });
            Ok((client, task))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// tenant_database 76: of a host's addresses only those of the family that is asked for
    #[tokio::test]
    async fn addresses_of_a_family() {
        let route = |ip_version| Route { ip_version, ..Route::default() };
        let v4 = route(IpVersion::V4).addresses("127.0.0.1", 1).await.unwrap();
        assert!(v4.iter().all(SocketAddr::is_ipv4));
        assert!(route(IpVersion::Any).resolve("::1", 1).await.unwrap().is_ipv6());
        let none = route(IpVersion::V6).resolve("127.0.0.1", 1).await.unwrap_err();
        assert_eq!(none.to_string(), "The database's host 127.0.0.1 has no IPv6 address");
        let unknown = route(IpVersion::V4).resolve("nobody.invalid", 1).await.unwrap_err();
        assert!(unknown.to_string().starts_with("The database's host nobody.invalid cannot be found: "));
    }

    #[tokio::test]
    async fn a_name_without_address_is_an_error_of_connecting() {
        let route = Route { ip_version: IpVersion::V6, ..Route::default() };
        let mut config = Config::new();
        config.host("127.0.0.1").user("me");
        let error = route.connect(&config).await.map(drop).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(cause.as_deref(), Some("The database's host 127.0.0.1 has no IPv6 address"));
    }
}
