//! Operators' codes: what each means and what to do about it (http_and_ops 10). `docs/operations.md` is made of this.

use std::fmt::Write as _;

/// A code that lines of the log, labels of metrics and refused joins carry.
#[derive(Debug)]
pub struct Code {
    /// The code.
    pub name: &'static str,
    /// When it is told.
    pub meaning: &'static str,
    /// What an operator can do.
    pub remedy: &'static str,
}

const fn code(name: &'static str, meaning: &'static str, remedy: &'static str) -> Code {
    Code { name, meaning, remedy }
}

/// The codes as a table in Markdown.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("| code | when | what to do |\n| --- | --- | --- |\n");
    for Code { name, meaning, remedy } in CODES {
        let _ = writeln!(text, "| `{name}` | {meaning} | {remedy} |");
    }
    text
}

/// Nothing for the operator.
const CLIENT: &str = "The client's to mend";

/// All codes that this server tells, in alphabetical order.
#[rustfmt::skip]
pub static CODES: &[Code] = &[
    code("BroadcastsMissed", "Told to channels only: the connection to the database was lost, so broadcasts from it may have been missed", "See ReplicationConnectionDown"),
    code("CertificateNotReloaded", "The listener's certificate has changed, and cannot be used; the one in use stays", "Read the error, and mend the files"),
    code("ChangeNotDecodable", "The database failed twice to decode the same change for a permanent slot; the slot was begun anew behind it, and subscribers were told of the gap", "Read the error and the position: often a row filter of the publication that raises"),
    code("ChangesDelayed", "A row change has been waiting for 5 seconds for an answer of the database; all that come after it wait too, and subscribers were told", "Look for locks on published tables, and for slow policies"),
    code("ChannelRateLimitReached", "A socket wanted more channels than its tenant allows", "Have clients leave channels, or raise `max_channels_per_client`"),
    code("ChannelShutdown", "A channel was closed by the server; the text is what its client was told", "Read the text"),
    code("CheckOidsError", "The catalog of a tenant's database could not be read; it is tried again", "See whether the database answers"),
    code("ClientJoinRateLimitReached", "Joins came faster than the tenant allows; the socket was closed", "Look for clients that join in a loop, or raise `max_joins_per_second`"),
    code("ClientPresenceRateLimitReached", "Told to one channel only: its client made more presence calls than a window allows; the last one counts when the next begins", "Have it track less often, or raise `CLIENT_PRESENCE_MAX_CALLS`"),
    code("ClusterNodeIdTaken", "Two nodes drew the same number and exchange nothing", "Start one of them again"),
    code("ClusterVersionMismatch", "A node speaks another version of the protocol between nodes; nothing is exchanged with it", "Bring all nodes to the same release"),
    code("ConnectionRateLimitReached", "More users at once than the tenant allows", "Raise `max_concurrent_users`"),
    code("DatabaseConnectionRateLimitReached", "Three attempts to reach a database failed within five seconds", "See what the lines before it say of the database"),
    code("DatabaseLackOfConnections", "A database has no room for the connections that the server needs", "Raise `max_connections`, or end other sessions"),
    code("DatabaseReplaced", "Told to channels only: the tenant's database settings changed, so row changes may have been missed", "None: clients are subscribed again"),
    code("DatabaseRoleIsSuperuser", "The server's role is a superuser in a tenant's database: code of applications that runs in its sessions could take that on", "Give it a role of its own ([securing](securing.md))"),
    code("DropReplicationSlotFailed", "A replication slot of a tenant that was removed or moved is still there", "Drop it by hand, or it keeps the log: `pg_drop_replication_slot`"),
    code("EncryptionReconcileFailed", "A secret in the metadata database could not be moved to AES-256-GCM", "Read the error; the old form stays in use"),
    code("ErrorConnectingToWebsocket", "A handshake failed for a reason without a code of its own", "Read the text"),
    code("ErrorExecutingTransaction", "A transaction in the metadata database failed", "Read the error"),
    code("FilterTooSlow", "The filter of a subscription takes the database longer than 50 ms for a row; its channel is told that changes are withheld", "Look which filters clients use: plain comparisons and short patterns need no question to the database"),
    code("HttpClientError", "A request was refused for its form: status 400, 404, 405, 406, 408, 413, 415 or 431", CLIENT),
    code("HttpServerError", "A request was answered with status 500 or above", "See the lines with the same `request_id`"),
    code("IncreaseConnectionPool", "Questions to policies found no connection in time", "Raise the tenant's `db_pool`, or make policies cheaper"),
    code("InitializingProjectConnection", "A database took more than 15 seconds to answer", "See how busy it is, and how far away"),
    code("InvalidJWTToken", "A token has expired, is not valid yet, or lacks `role` or `exp`, or a claim that is demanded", CLIENT),
    code("InvalidJoinPayload", "A field of a join was not understood and left out; or the join was refused: something of it is too large, or `private` is no boolean", CLIENT),
    code("JanitorFailedToDeleteOldMessages", "Partitions of `realtime.messages` could not be looked after", "Read the error; without partitions no message is stored"),
    code("JoinsRateLimitReached", "A handshake was refused because joins came too fast", "As ClientJoinRateLimitReached"),
    code("JwtSignatureError", "A token is signed with another key", "Compare the tenant's secret with the one that signs"),
    code("JwtSignerError", "There is no key for a token's `kid` or algorithm", "Add the key to the tenant's key set"),
    code("MalformedJWT", "What should be a token is none", CLIENT),
    code("MalformedWebSocketMessage", "A frame or message breaks the protocol", CLIENT),
    code("MessagePerSecondRateLimitReached", "Row changes came faster than the tenant allows and are dropped; channels were told. Or a socket was closed that went on with ten times the limit", "Raise `max_events_per_second`, or watch less"),
    code("MessagesDropped", "Told to channels only: broadcasts or row changes above the tenant's events per second were not delivered, so many as `count` says", "Raise `max_events_per_second`, or send less"),
    code("MetricsPusherException", "Metrics could not be pushed", "See whether `METRICS_PUSHER_URL` can be reached"),
    code("MetricsPusherFailed", "Pushed metrics were answered with another status than 2xx", "See what the receiver logs"),
    code("MetricsPusherTimeout", "Pushing metrics took too long", "See how busy the receiver is"),
    code("MigrationCountMismatchReconcileFailed", "How many migrations a tenant has seen could not be written down", "See whether the metadata database can be written to"),
    code("MigrationsFailedToRun", "A database could not be set up for private topics, in whole or in part", "Run `realtime migrate`, which tells what is missing and which right it takes"),
    code("MissingAPIKey", "A handshake without a token", CLIENT),
    code("MissingPartition", "`realtime.messages` has no partition for today", "See why `RUN_JANITOR` or the rights to create tables fail"),
    code("PartitionCreationFailed", "A partition of `realtime.messages` could not be made or dropped", "Read the error"),
    code("PgStatActivityQueryFailed", "The connection that holds a slot could not be ended", "End it by hand: `pg_terminate_backend`"),
    code("PresenceRateLimitReached", "Told to one channel only: its tenant has too many presence events; what it tracked counts later", "Raise `max_presence_events_per_second`"),
    code("PrivateOnly", "A public join at a tenant that allows private channels only", CLIENT),
    code("QueryCanceled", "Policies took too long, or somebody cancelled them", "Look at the plans of the policies on `realtime.messages`"),
    code("ReadBeforeReturn", "Told to channels only: the log of a permanent slot was read before the channel was back", "Raise `RESUME_DELAY_MS` if clients take longer to come back"),
    code("RealtimeDisabledForConfiguration", "A subscription to row changes cannot be: its parameters, or an empty publication", "Add tables to the publication, or mend the client"),
    code("RealtimeDisabledForTenant", "A handshake at a suspended tenant", "None, unless it should not be suspended"),
    code("RealtimeNodeDisconnected", "The connection to NATS was lost, or another node is not heard any more", "See whether NATS and the other nodes run; both come back by themselves"),
    code("RealtimeRestarting", "A join while the server goes down", "None: clients come back elsewhere"),
    code("ReplicationConnectionDown", "The replication session was lost; it is tried again, and channels are told of the gap", "If it happens again, see the database's log"),
    code("ReplicationConnectionTimeout", "A replication session did not begin in time", "See how busy the database is"),
    code("ReplicationConnectionWatchdogTimeout", "Nothing was heard on a replication connection for too long; it is made anew", "Look at the network between"),
    code("ReplicationMaxWalSendersReached", "The database has no walsender left", "Raise `max_wal_senders`"),
    code("ReplicationSlotBeingUsed", "Another connection reads the replication slot", "Give servers that read the same database the same `NATS_URL`, or each a `SLOT_NAME_SUFFIX` of its own"),
    code("ReplicationSlotLagTooHigh", "A slot kept more of the log than it may and was given up; channels were told", "See why row changes are not handed over; raise `MAX_REPLICATION_LAG_MB`"),
    code("RlsPolicyError", "A policy raised an error, or a token's role does not exist; rows and messages are withheld", "Try the policy under the role: the log has the SQLSTATE, not the text, which may quote rows"),
    code("RpcError", "A message between nodes could not be sent, received or read", "Read the error: the node may lack the right to a subject, and whoever may publish on the cluster's subjects must be a node"),
    code("SlowConsumer", "A socket was closed because it reads slower than its channels talk, or because the node held too much and this socket most of it", "None for single ones; many mean a network in trouble, rooms too loud, or a `MAX_CLIENT_MEMORY_MB` too small"),
    code("StartReplicationFailed", "A replication session could not begin", "Read the error: often `wal_level`, or the role's REPLICATION"),
    code("TenantNotFound", "The host names no tenant", "Compare the host with the tenants' names"),
    code("TimeoutOnRpcCall", "A node did not answer in time: its metrics or figures are left out", "See how busy it is, or whether it stands still"),
    code("TokenExpired", "Told to channels only: a token expired before the database had judged the one that follows it, so messages may have been missed", "None; see how busy the database is if it comes often"),
    code("TokenWithoutExpiry", "A client of the first generation brought a token that never expires, and was let in", "Give tokens an expiry"),
    code("TooManyBodies", "A large body of a request was refused with 503: those that are being read take their share of the memory already", "Look for the client that sends them; or raise `MAX_CLIENT_MEMORY_MB`"),
    code("TooManyLongPolls", "A session of the long-poll transport was refused: its tenant, its address or the node has as many as it may have", "Raise `LONGPOLL_MAX_SESSIONS_PER_ADDRESS` where a proxy stands before the server; else look for the client that opens them"),
    code("TopicNameRequired", "A join to `realtime:` with nothing after it", CLIENT),
    code("Truncated", "Told to channels only: a table that they watch was truncated", "None"),
    code("UnableCheckoutConnection", "The metadata database gave no connection in time", "See how busy it is"),
    code("UnableToBroadcastChanges", "A stored message cannot be delivered: it is malformed, too large, or there are too many", "Mend what inserts into `realtime.messages`"),
    code("UnableToConnectToNats", "NATS cannot be reached, or refuses this node, for a reason that is told once; the node serves alone and tries on", "Read the reason: address, credentials or certificates; it connects by itself when NATS lets it"),
    code("UnableToConnectToProject", "A tenant's database did not answer a question", "See whether it is up"),
    code("UnableToConnectToTenantDatabase", "A tenant's database could not be reached at the start; it is tried again", "Compare address and password"),
    code("UnableToEncodeJson", "An answer could not be written as JSON", "Read the error"),
    code("UnableToHandleBroadcast", "Policies could not be asked whether a message may be sent", "See whether the database is up"),
    code("UnableToReplayMessages", "Stored messages could not be read for a join", "Read the error"),
    code("UnableToStopDatabaseConnection", "Connections to a tenant's database did not end in time", "None: they end by themselves"),
    code("UnableToSubscribeToPostgres", "A subscription to row changes could not begin, or its filter raised an error", "See whether the database is up, and the filter"),
    code("Unauthorized", "Policies deny reading a private topic", "None, unless they should not"),
    code("UnexpectedMessageReceived", "The replication session told of a table that nobody publishes", "None"),
    code("UnknownError", "An error that has no code of its own", "Read the text"),
    code("UnknownErrorOnChannel", "A join was not understood", CLIENT),
    code("UnknownErrorOnController", "A request of the admin API failed for a reason without a code of its own", "Read the error"),
    code("UnknownErrorOnWebSocketMessage", "A message is not one of its serializer", CLIENT),
    code("UnprocessableEntity", "A tenant that somebody wanted to write is not valid", CLIENT),
    code("WebhookFailed", "A webhook was not answered with success in time", "See whether its endpoint answers"),
    code("WebhookTooLarge", "A transaction is larger than a webhook may carry, and was not sent", "Write in smaller transactions"),
    code("WebhooksUnavailable", "Webhooks cannot be sent at all: their client could not be made", "Read the error"),
];
