//! The list of codes.

use crate::entry::{Entry, Level};

/// Remedy of what only the client can change.
const CLIENT: &str = "None: caused by the client";

/// Defines [`ErrorCode`]: each code with its level, when it is told, and what an operator can do.
macro_rules! codes {
    ($($name:ident: $level:ident, $meaning:expr, $remedy:expr;)+) => {
        /// Code of an operational error: a label in logs and metrics, the prefix of refused joins, the `code` of notices.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode {
            $(#[doc = $meaning] $name,)+
        }

        impl ErrorCode {
            /// All codes, in alphabetical order.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            pub(crate) const fn entry(self) -> &'static Entry {
                match self {
                    $(Self::$name => &Entry {
                        name: stringify!($name),
                        level: Level::$level,
                        meaning: $meaning,
                        remedy: $remedy,
                    },)+
                }
            }
        }
    };
}

#[rustfmt::skip]
codes! {
    AnswerNotRead: Warning, "A connection was closed, because its client took less than 64 KB of an answer over HTTP in `HTTP_SEND_TIMEOUT_MS`", "None for single ones, whose network is gone or slow; many come from a client that asks and does not read";
    BroadcastsMissed: Notice, "Told to channels only: the connection to the database was lost, so broadcasts from it may have been missed", "See ReplicationConnectionDown";
    CertificateNotReloaded: Error, "The listener's certificate has changed and cannot be used; the current one stays in use", "Read the error and repair the files";
    ChangeNotDecodable: Error, "The database failed twice to decode the same change for a permanent slot; the slot was begun anew behind it, and subscribers were told of the gap", "Read the error and the position: often the publication has a row filter that raises";
    ChangesDelayed: Warning, "A row change has been waiting for 5 seconds for an answer of the database; later ones wait too, and subscribers were told", "Look for locks on published tables, and for slow policies";
    ChangesLeftOut: Notice, "Told to channels only: in a cluster, rows of a table were not sent to the node although it had begun to watch the table, so some were missed", "None: the node gets them from then on. It happens when a table takes the name of another one, or when the node that reads the database is within a long transaction";
    ChangesNotKept: Notice, "Told to channels only: they have come back for row changes that are not kept any more, so some were missed", "Raise `CHANGES_JOURNAL_SECONDS` or `CHANGES_JOURNAL_MB` if clients take longer to come back";
    ChannelRateLimitReached: Warning, "A socket tried to join more channels than its tenant allows", "Have clients leave channels, or raise `max_channels_per_client`";
    ChannelShutdown: Warning, "A channel was closed by the server; the text is what its client was told", "Read the text";
    CheckOidsError: Warning, "The catalog of a tenant's database could not be read; the server retries", "Check that the database answers";
    ClientJoinRateLimitReached: Warning, "Joins came faster than the tenant allows, and the socket was closed; or faster than one socket may, and the join was refused", "Look for clients that join in a loop, or raise `max_joins_per_second`";
    ClientPresenceRateLimitReached: Notice, "Told to one channel only: its client made more presence calls than a window allows; the last one takes effect when the next window begins", "Call `track` less often, or raise `CLIENT_PRESENCE_MAX_CALLS`";
    ClusterNodeIdTaken: Error, "Two nodes drew the same number and exchange nothing", "Restart one of them";
    ClusterVersionMismatch: Error, "A node speaks another version of the protocol between nodes; nothing is exchanged with it", "Bring all nodes to the same release";
    ConnectionRateLimitReached: Warning, "More users are connected at once than the tenant allows", "Raise `max_concurrent_users`";
    DatabaseConnectionRateLimitReached: Error, "Three attempts to reach a database failed within five seconds", "Read what the lines before it say about the database";
    DatabaseLackOfConnections: Error, "A database has no room for the connections that the server needs", "Raise `max_connections`, or end other sessions";
    DatabaseReplaced: Notice, "Told to channels only: the tenant's database settings changed, so row changes may have been missed", "None: clients are subscribed again";
    DatabaseRoleIsSuperuser: Warning, "The server's role is a superuser in a tenant's database: application code that runs in its sessions could use that", "Give it a role of its own ([securing](securing.md))";
    DropReplicationSlotFailed: Error, "A replication slot of a tenant that was removed or moved is still there", "Drop it by hand (`pg_drop_replication_slot`); until then it keeps the log";
    EncryptionReconcileFailed: Error, "A secret in the metadata database could not be moved to AES-256-GCM", "Read the error; the old form stays in use";
    ErrorConnectingToWebsocket: Warning, "A handshake failed for a reason without a code of its own", "Read the text";
    ErrorExecutingTransaction: Error, "A transaction in the metadata database failed", "Read the error";
    FilterTooSlow: Warning, "The filter of a subscription takes the database longer than 50 ms for a row; its channel is told that changes are withheld", "Look at the filters that clients use: plain comparisons and short patterns need no question to the database";
    HttpClientError: Warning, "A request was refused because of its form: status 400, 404, 405, 406, 408, 413, 415 or 431", CLIENT;
    HttpServerError: Error, "A request was answered with status 500 or above", "Read the lines with the same `request_id`";
    IncreaseConnectionPool: Error, "Questions to policies found no free connection in time", "Raise the tenant's `db_pool`, or make policies cheaper";
    InitializingProjectConnection: Warning, "A database took more than 15 seconds to answer", "Check how busy the database is, and how far away";
    InvalidJWTToken: Warning, "A token has expired, is not valid yet, or lacks `role`, `exp` or a claim that is required", CLIENT;
    InvalidJoinPayload: Warning, "A field of a join was not understood and was ignored; or the join was refused: a part of it is too large, or `private` is not a boolean", CLIENT;
    JanitorFailedToDeleteOldMessages: Error, "Partitions of `realtime.messages` could not be maintained", "Read the error; without partitions no message is stored";
    JoinsRateLimitReached: Warning, "A handshake was refused because joins came too fast", "As ClientJoinRateLimitReached";
    JournalNotRead: Warning, "The log of before the start is too long to be read into the journal within 10 seconds: clients that come back may be told of a gap", "Nothing, unless it is so at each start: then lower `CHANGES_JOURNAL_SECONDS`";
    JournalSlotNotKept: Warning, "The second slot of `SLOT_DURABLE`, which stays behind, cannot be made or moved on: after a restart clients that come back may be told of a gap", "Raise `max_replication_slots` by one; else read the error";
    JwtSignatureError: Warning, "A token is signed with another key", "Compare the tenant's secret with the one that signs the tokens";
    JwtSignerError: Warning, "There is no key for a token's `kid` or algorithm", "Add the key to the tenant's key set";
    LiveKeyNotUnique: Warning, "Two rows of a live result had the same key; the result was ended and its rows have left", "Ask with a `key` of columns that tell rows apart";
    LiveQueryFailed: Warning, "The query of a live result raised an error; it is tried again. Its clients keep what they have, unless a right is missing (42501)", "Try the query under the role: the text has the SQLSTATE";
    LiveQueryTooSlow: Warning, "The query of a live result takes longer than `LIVE_STATEMENT_TIMEOUT`; it is tried again, and its clients keep what they have", "Look at the plan of the query: add an index, or ask for less";
    LiveReadsNotKnown: Warning, "A live result calls functions of which it is not known all that they read: they build statements as they run, are written in other languages, or read what is not published. Until something changes that is known its rows may be old", "Write the function with plain queries and publish what it reads, or set `LIVE_RECHECK_MS`";
    LiveResultTooLarge: Warning, "A live result was ended, and its rows have left: it has more rows than `LIVE_MAX_ROWS`, or live results take more memory than `LIVE_MAX_MB`", "Ask for fewer rows, with a filter or a limit; or raise the bound";
    MalformedJWT: Warning, "A token is not a JWT", CLIENT;
    MalformedWebSocketMessage: Warning, "A frame or message breaks the protocol", CLIENT;
    MessagePerSecondRateLimitReached: Error, "Row changes came faster than the tenant allows and are dropped; channels were told. Or a socket that went on at ten times the limit was closed", "Raise `max_events_per_second`, or watch less";
    MessagesDropped: Notice, "Told to channels only: broadcasts or row changes above the tenant's events per second were not delivered; `count` says how many", "Raise `max_events_per_second`, or send less";
    MessagesNotKept: Notice, "Told to channels only: they have asked for broadcasts that are not kept any more, were said before this node heard their topic, or are more than a client can be sent at once", "Raise `BROADCAST_HISTORY_SECONDS`, `BROADCAST_HISTORY_MESSAGES` or `BROADCAST_HISTORY_MB` if clients take longer to come back";
    MetricsPusherException: Error, "Metrics could not be pushed", "Check that `METRICS_PUSHER_URL` can be reached";
    MetricsPusherFailed: Error, "Pushed metrics were answered with another status than 2xx", "Read the log of the receiver";
    MetricsPusherTimeout: Error, "Pushing metrics took too long", "Check how busy the receiver is";
    MigrationCountMismatchReconcileFailed: Warning, "The number of migrations that a tenant has seen could not be stored", "Check that the metadata database can be written to";
    MigrationsFailedToRun: Error, "A database could not be set up for private topics, in whole or in part", "Run `realtime migrate`, which says what is missing and which right it needs";
    MissingAPIKey: Warning, "A handshake without a token", CLIENT;
    MissingPartition: Warning, "`realtime.messages` has no partition for today", "Find out why the janitor (`RUN_JANITOR`) or the right to create tables fails";
    PartitionCreationFailed: Error, "A partition of `realtime.messages` could not be made or dropped", "Read the error";
    PgStatActivityQueryFailed: Warning, "The connection that holds a slot could not be terminated", "Terminate it by hand: `pg_terminate_backend`";
    PolicyCacheFull: Warning, "What policies were asked for takes more memory than POLICY_CACHE_MB allows; the database is asked about each row of a table for a role", "Raise POLICY_CACHE_MB, or write policies that keep less: docs/row-security.md";
    PolicyMismatch: Error, "A compiled policy said something else of a row than the database; that policy is left to the database until it is altered or the server starts again", "Report it with the policy: this is a defect of the server. `POLICY_CHECK_EVERY` says how many verdicts are compared";
    PresenceRateLimitReached: Notice, "Told to one channel only: its tenant has too many presence events; what the channel tracked takes effect later", "Raise `max_presence_events_per_second`";
    PresenceTooLarge: Notice, "Told to one channel only: the presence of its topic takes 5 MB, the most that is shown; what the channel tracked is larger than an equal share of that and is refused, or among the largest and not shown to others", "Track smaller objects: presence is for names and states, broadcast for contents";
    PrivateOnly: Warning, "A public join at a tenant that allows private channels only", CLIENT;
    QueryCanceled: Error, "Policies took too long, or were cancelled", "Look at the plans of the policies on `realtime.messages`";
    ReadBeforeReturn: Notice, "Told to channels only: the log of a permanent slot was read before the channel had come back", "Raise `RESUME_DELAY_MS` if clients take longer to come back";
    RealtimeDisabledForConfiguration: Warning, "A subscription to row changes is not possible: because of its parameters, or because the publication is empty", "Add tables to the publication, or correct the client";
    RealtimeDisabledForTenant: Warning, "A handshake at a suspended tenant", "None, unless it should not be suspended";
    RealtimeNodeDisconnected: Error, "The connection to NATS was lost, or another node is not heard any more", "Check that NATS and the other nodes run; connections come back by themselves";
    RealtimeRestarting: Warning, "A join came while the server was shutting down", "None: clients come back elsewhere";
    ReplicationConnectionDown: Warning, "The replication session was lost; the server retries, and channels are told of the gap", "If it happens again, read the database's log";
    ReplicationConnectionTimeout: Warning, "A replication session did not begin in time", "Check how busy the database is";
    ReplicationConnectionWatchdogTimeout: Warning, "Nothing was heard on a replication connection for too long; it is replaced", "Check the network between the server and the database";
    ReplicationMaxWalSendersReached: Warning, "The database has no walsender left", "Raise `max_wal_senders`";
    ReplicationSlotBeingUsed: Warning, "Another connection reads the replication slot", "Give servers that read the same database the same `NATS_URL`, or each a `SLOT_NAME_SUFFIX` of its own";
    ReplicationSlotLagTooHigh: Error, "A slot kept more of the log than allowed and was given up; channels were told", "Find out why row changes are not delivered; raise `MAX_REPLICATION_LAG_MB`";
    RlsPolicyError: Warning, "A policy raised an error, or a token's role does not exist; rows and messages are withheld", "Try the policy under the role: the log has the SQLSTATE, but not the text, which may quote rows";
    RpcError: Error, "A message between nodes could not be sent, received or read", "Read the error: the node may lack the right to a subject. Only nodes may be able to publish on the cluster's subjects";
    SlowConsumer: Warning, "A socket was closed with code 1013, because it reads more slowly than its channels send, or because the node held too much memory for clients and this socket most of it", "None for single ones; many mean a slow network, rooms with too many messages, or a `MAX_CLIENT_MEMORY_MB` that is too small ([how to tell](troubleshooting.md#the-socket-is-closed-with-1013))";
    StartReplicationFailed: Warning, "A replication session could not begin", "Read the error: often `wal_level`, or the role's REPLICATION";
    TableNotReadable: Warning, "A client watches a table of which its role may read nothing; it is told `Error 401: Unauthorized` in place of rows", "Grant the role SELECT on the table and USAGE on its schema, or ask `realtime explain` why";
    TableWithoutPolicy: Warning, "A client watches a table under row-level security that no policy shows its role; it receives nothing", "Add a policy for SELECT, or ask `realtime explain` why";
    TenantNotFound: Warning, "The host names no tenant", "Compare the host with the tenants' names";
    TimeoutOnRpcCall: Error, "A node did not answer in time: its metrics or figures are left out", "Check how busy the node is";
    TokenExpired: Notice, "Told to channels only: a token expired before the database had judged its successor, so messages may have been missed", "None; if it happens often, check how busy the database is";
    TokenWithoutExpiry: Info, "A client of the first generation sent a token that never expires, and was let in", "Give tokens an expiry";
    TooManyBodies: Warning, "A large request body, or an answer with a history, was refused with 503: the bodies that are being read or sent, in all or of its address, already take their share of the memory", "Look for the client that sends or asks for them; or raise `MAX_CLIENT_MEMORY_MB`";
    TooManyLongPolls: Warning, "A session of the long-poll transport was refused: its tenant, its address or the node has reached its limit", "Raise `LONGPOLL_MAX_SESSIONS_PER_ADDRESS` if a proxy stands before the server; otherwise look for the client that opens them";
    TopicNameRequired: Warning, "A join to `realtime:` with nothing after it", CLIENT;
    Truncated: Notice, "Told to channels only: a table that they watch was truncated", "None";
    UnableCheckoutConnection: Error, "The metadata database gave no connection in time", "Check how busy it is";
    UnableToBroadcastChanges: Warning, "A stored message cannot be delivered: it is malformed, too large, or there are too many", "Correct what inserts into `realtime.messages`";
    UnableToConnectToNats: Error, "NATS cannot be reached or refuses this node; each reason is logged once. The node serves standalone and retries", "Read the reason: address, credentials or certificates. The node connects by itself once NATS accepts it";
    UnableToConnectToProject: Warning, "A tenant's database did not answer a question", "Check that it is up";
    UnableToConnectToTenantDatabase: Error, "A tenant's database could not be reached at the start; the server retries", "Compare address and password";
    UnableToEncodeJson: Error, "An answer could not be written as JSON", "Read the error";
    UnableToHandleBroadcast: Warning, "Policies could not be asked whether a message may be sent", "Check that the database is up";
    UnableToReplayMessages: Warning, "Stored messages could not be read for a join", "Read the error";
    UnableToStopDatabaseConnection: Warning, "Connections to a tenant's database did not end in time", "None: they end by themselves";
    UnableToSubscribeToPostgres: Error, "A subscription to row changes could not begin, or its filter raised an error", "Check that the database is up, and the filter";
    Unauthorized: Warning, "Policies deny reading a private topic", "None, unless they should not";
    UnexpectedMessageReceived: Warning, "The replication session sent changes of a table that is not published", "None";
    UnknownError: Error, "An error without a code of its own", "Read the text";
    UnknownErrorOnChannel: Warning, "A join was not understood", CLIENT;
    UnknownErrorOnController: Error, "A request of the admin API failed for a reason without a code of its own", "Read the error";
    UnknownErrorOnWebSocketMessage: Warning, "A message does not fit its serializer", CLIENT;
    UnprocessableEntity: Warning, "The values for a tenant are not valid", CLIENT;
    WebhookDeadLetter: Warning, "A change was given up for a webhook: its endpoint refused it or did not succeed in time, or it could not be posted", "Check the endpoint by `reason`; take what is missing from the table";
    WebhookFailed: Warning, "A webhook did not succeed in time", "Check that its endpoint answers";
    WebhookFilterRefused: Warning, "The filter of a webhook cannot be used on a table: its changes there are given up", "Correct the filter";
    WebhookGap: Warning, "A webhook begins to read the log at the end: it is new, its slot is not permanent, or its slot was lost or given up. What was committed before is not posted", "Set `SLOT_DURABLE`, if that must not be; take what is missing from the table";
    WebhookTooLarge: Error, "A transaction is larger than a webhook may be, and was not sent", "Write in smaller transactions";
    WebhooksUnavailable: Error, "Webhooks cannot be sent: their HTTP client could not be created, or what is set of them cannot be used", "Read the error";
}
