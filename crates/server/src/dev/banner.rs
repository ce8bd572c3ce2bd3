//! The output of `realtime dev`.

use std::{io::Write as _, time::Duration};

/// The commands that can be typed while several nodes run.
pub(super) const ORDERS: &str =
    "kill, stop, pause, resume or start, and the number of a node or nats; or nodes";

/// What is needed to use the running server.
pub(super) struct Ready<'a> {
    pub(super) nodes: &'a [Node<'a>],
    /// Address of NATS, and its process if we started it. `None` for one node.
    pub(super) nats: Option<(String, Option<i32>)>,
    pub(super) tenant: &'a str,
    pub(super) token: &'a str,
    pub(super) secret: &'a str,
    pub(super) database: &'a str,
    pub(super) database_pid: Option<u32>,
    pub(super) table: &'a str,
    pub(super) took: Duration,
}

/// A node.
pub(super) struct Node<'a> {
    /// Not used for a single node.
    pub(super) name: &'a str,
    pub(super) port: u16,
    pub(super) pid: Option<i32>,
}

/// Shows a step of the start.
pub(super) fn progress(step: &str) {
    print(&format!("  … {step}"));
}

/// Shows an event.
pub(super) fn tell(what: &str) {
    print(&format!("  • {what}"));
}

/// Shows a line of a node.
pub(super) fn said(node: &str, line: &str) {
    // One write, so that lines of several nodes do not mix. A closed output must not end anything.
    let _ = std::io::stderr().lock().write_all(format!("{node} | {line}\n").as_bytes());
}

/// Shows everything that a person needs to begin.
pub(super) fn ready(ready: &Ready<'_>) {
    print(&render(ready));
}

/// Writes the command's output. A closed output must not end anything.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn render(ready: &Ready<'_>) -> String {
    let Ready { nodes, nats, tenant, token, secret, database, table, took, .. } = ready;
    let took = took.as_secs_f32();
    let port = nodes.first().map_or(0, |node| node.port);
    let several = nats.as_ref().map(|nats| several(ready, nats)).unwrap_or_default();
    let count = if nats.is_some() { format!(": {} nodes", nodes.len()) } else { String::new() };
    let inspectors = match nats {
        None => format!("  Inspector {}\n", inspector(ready, port)),
        Some(_) => {
            let line = |node: &Node<'_>| format!("  {}     {}\n", node.name, inspector(ready, node.port));
            format!("Inspectors\n\n{}", nodes.iter().map(line).collect::<String>())
        }
    };
    let (run, address) = match nodes.last() {
        Some(last) if nats.is_some() => (
            format!("node watch.mjs {port}, and elsewhere node watch.mjs {}", last.port),
            "`http://localhost:${process.argv[2]}`".to_owned(),
        ),
        _ => ("node watch.mjs".to_owned(), format!("'http://localhost:{port}'")),
    };
    format!(
        r#"
Realtime is ready ({took:.1} s){count}

{inspectors}{several}
  Socket    ws://localhost:{port}/socket/websocket?apikey=TOKEN&vsn=2.0.0   (tenant {tenant})
  Database  {database}
  Token     {token}
  Secret    {secret}   (signs tokens, as API_JWT_SECRET)

Watch the table {table}: save this as watch.mjs, then: npm install @supabase/supabase-js ws && {run}

  import {{ createClient }} from '@supabase/supabase-js'
  import ws from 'ws'

  const token = '{token}'
  const supabase = createClient({address}, token, {{ realtime: {{ transport: ws }} }})
  supabase
    .channel('demo')
    .on('postgres_changes', {{ event: '*', schema: 'public', table: '{table}' }},
      (change) => console.log(change.eventType, change.new, change.old))
    .subscribe((status) => console.log(status))

Change a row:

  psql '{database}' -c "insert into {table} (task) values ('Say hello')"

Stop with Ctrl-C; the data stays."#
    )
}

/// Further explanations for several nodes.
fn several(ready: &Ready<'_>, (nats, nats_pid): &(String, Option<i32>)) -> String {
    let pid = |pid: Option<i64>| pid.map_or_else(|| "not ours".to_owned(), |pid| format!("pid {pid}"));
    let mut text = String::from("\nProcesses\n\n");
    for node in ready.nodes {
        let process = pid(node.pid.map(Into::into));
        text.push_str(&format!("  {}     {process}   http://localhost:{}/status\n", node.name, node.port));
    }
    text.push_str(&format!("  NATS      {}   {nats}\n", pid(nats_pid.map(Into::into))));
    text.push_str(&format!("  PostgreSQL {}\n", pid(ready.database_pid.map(Into::into))));
    text.push_str("\nSee what becomes of the others: type a line such as  kill 2  here, then  start 2.\n");
    text.push_str(&format!("There are: {}\n", ORDERS));
    text
}

/// A link to the Inspector with the form filled in, so that only Connect has to be clicked.
fn inspector(ready: &Ready<'_>, port: u16) -> String {
    let Ready { token, table, .. } = ready;
    let host = format!("http://localhost:{port}");
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("host", &host).append_pair("channel", "demo").append_pair("token", token);
    for flag in ["enable_presence", "enable_db_changes"] {
        query.append_pair(flag, "true");
    }
    let query = query.append_pair("schema", "public").append_pair("table", table).finish();
    format!("{host}/?{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(nodes: &[Node<'_>], nats: Option<(String, Option<i32>)>) -> String {
        render(&Ready {
            nodes,
            nats,
            tenant: "realtime-dev",
            token: "a.b.c",
            secret: "s3cret",
            database: "postgresql://postgres:pw@127.0.0.1:15432/postgres",
            database_pid: Some(4240),
            table: "todos",
            took: Duration::from_millis(1234),
        })
    }

    #[test]
    fn shows_what_is_needed() {
        insta::assert_snapshot!(shown(&[Node { name: "", port: 4000, pid: None }], None));
    }

    #[test]
    fn shows_several_nodes() {
        let nodes = [
            Node { name: "node1", port: 4000, pid: Some(4243) },
            Node { name: "node2", port: 4001, pid: Some(4244) },
        ];
        insta::assert_snapshot!(shown(&nodes, Some(("nats://127.0.0.1:42222".to_owned(), Some(4241)))));
    }
}
