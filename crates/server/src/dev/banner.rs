//! What `realtime dev` shows.

use std::time::Duration;

/// What is needed to use the running server.
pub(super) struct Ready<'a> {
    pub(super) port: u16,
    pub(super) tenant: &'a str,
    pub(super) token: &'a str,
    pub(super) secret: &'a str,
    pub(super) database: &'a str,
    pub(super) table: &'a str,
    pub(super) took: Duration,
}

/// A line that tells what is going on.
#[expect(clippy::print_stdout, reason = "the command's output")]
pub(super) fn progress(step: &str) {
    println!("  … {step}");
}

/// All that a person needs to begin.
#[expect(clippy::print_stdout, reason = "the command's output")]
pub(super) fn ready(ready: &Ready<'_>) {
    println!("{}", render(ready));
}

fn render(ready: &Ready<'_>) -> String {
    let Ready { port, tenant, token, secret, database, table, took } = ready;
    let took = took.as_secs_f32();
    let inspector = inspector(ready);
    format!(
        r#"
Realtime is ready ({took:.1} s)

  Inspector {inspector}

  Socket    ws://localhost:{port}/socket/websocket?apikey=TOKEN&vsn=2.0.0   (tenant {tenant})
  Database  {database}
  Token     {token}
  Secret    {secret}   (signs tokens, as API_JWT_SECRET)

Watch the table {table}: save this as watch.mjs, then: npm install @supabase/supabase-js ws && node watch.mjs

  import {{ createClient }} from '@supabase/supabase-js'
  import ws from 'ws'

  const token = '{token}'
  const supabase = createClient('http://localhost:{port}', token, {{ realtime: {{ transport: ws }} }})
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

/// A link to the Inspector with the form filled in: everything but a click on Connect.
fn inspector(ready: &Ready<'_>) -> String {
    let Ready { port, token, table, .. } = ready;
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

    #[test]
    fn shows_what_is_needed() {
        let text = render(&Ready {
            port: 4000,
            tenant: "realtime-dev",
            token: "a.b.c",
            secret: "s3cret",
            database: "postgresql://postgres:pw@127.0.0.1:15432/postgres",
            table: "todos",
            took: Duration::from_millis(1234),
        });
        insta::assert_snapshot!(text);
    }
}
