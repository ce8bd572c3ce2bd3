//! `realtime watch`, as people and scripts use it.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{PATIENCE, Server, ServerOptions, TestDb, free_port, token};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time,
};

use crate::BINARY;

const ROWS: &str = "create table public.items (id int primary key, room int, words text);
    insert into public.items values (1, 5, 'a'), (2, 5, 'b'), (3, 6, 'c');
    grant select on public.items to anon; alter publication supabase_realtime add table public.items;";

async fn start() -> Result<(Server, TestDb, ServerOptions)> {
    let db = TestDb::new().await?;
    db.sql(ROWS).await?;
    let options = ServerOptions::default().env("PORT", &free_port()?.to_string());
    Ok((Server::start(BINARY, &db, options.clone()).await?, db, options))
}

fn watch(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("watch").args(arguments).env_clear().env("REALTIME_TOKEN", token("anon"));
    command.env("REALTIME_URL", format!("http://127.0.0.1:{}", server.port()));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// A watcher whose output is no terminal.
struct Script {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Script {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.spawn()?;
        let lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        Ok(Self { child, lines })
    }

    async fn next(&mut self) -> Result<Value> {
        let line = time::timeout(PATIENCE, self.lines.next_line()).await.context("no line")??;
        Ok(serde_json::from_str(&line.context("it ended")?)?)
    }

    /// The next lines of these types; those of other types are passed over.
    async fn expect(&mut self, expected: &[(&str, Value)]) -> Result<()> {
        for (kind, part) in expected {
            let line = loop {
                let line = self.next().await.with_context(|| format!("no {kind} {part}"))?;
                if line["type"] == *kind {
                    break line;
                }
                ensure!(line["type"] == "lost" || line["type"] == "notice", "{line}, not {kind} {part}");
            };
            for (name, value) in part.as_object().context("an object")? {
                assert_eq!(&line[name], value, "{line}");
            }
        }
        Ok(())
    }
}

fn item(id: i32, room: i32, words: &str) -> Value {
    json!({"id": id, "room": room, "words": words})
}

/// A line for each message; after the server was away, all rows again.
#[tokio::test]
async fn scripts_get_lines() -> Result<()> {
    let (server, db, options) = start().await?;
    let mut script =
        Script::start(watch(&server, &["items", "--filter", "room=eq.5", "--order", "id", "--limit", "2"]))?;
    let record = |row: Value| json!({ "record": row });
    script
        .expect(&[
            ("joined", json!({})),
            ("INSERT", record(item(1, 5, "a"))),
            ("INSERT", record(item(2, 5, "b"))),
            ("complete", json!({"rows": 2})),
        ])
        .await?;
    db.sql("update public.items set words = 'd' where id = 1").await?;
    script.expect(&[("UPDATE", json!({"record": item(1, 5, "d"), "old_record": {"id": 1}}))]).await?;
    db.sql("delete from public.items where id = 1").await?;
    script.expect(&[("DELETE", json!({"old_record": {"id": 1}}))]).await?;
    server.stop().await?;
    db.sql("update public.items set words = 'e'").await?;
    let _server = Server::start(BINARY, &db, options).await?;
    script
        .expect(&[
            ("joined", json!({})),
            ("INSERT", record(item(2, 5, "e"))),
            ("complete", json!({"rows": 1})),
        ])
        .await?;
    // Whoever reads no more ends it.
    drop(script.lines);
    db.sql("update public.items set words = 'f'").await?;
    ensure!(time::timeout(PATIENCE, script.child.wait()).await??.success());
    Ok(())
}

/// What cannot be watched ends it, with the reason.
#[tokio::test]
async fn refusals_are_told() -> Result<()> {
    let (server, _db, _options) = start().await?;
    for (arguments, code, reason) in [
        (&["nowhere"][..], 1, "nowhere"),
        (&["items", "--token", "nonsense"], 1, "401"),
        (&["items", "--filter", "words=is.banana"], 1, "is filter"),
        (&["items", "--filter", "words"], 64, "filter"),
        (&["items", "--order", "id.sideways"], 64, "`order` must be"),
        (&["items", "--url", "localhost"], 64, "--url"),
    ] {
        let output = time::timeout(PATIENCE, watch(&server, arguments).output()).await??;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            (output.status.code(), errors.lines().count()),
            (Some(code), 1),
            "{arguments:?}: {errors}"
        );
        assert!(errors.contains(reason), "{arguments:?}: {errors}");
    }
    Ok(())
}

/// A watcher on a terminal, as `script` of util-linux gives one.
struct Terminal {
    child: Child,
    output: ChildStdout,
    seen: String,
}

impl Terminal {
    fn start(server: &Server, arguments: &str, colours: bool) -> Result<Self> {
        let mut command = Command::new("script");
        command.args(["--quiet", "--flush", "--return", "--command"]);
        command.arg(format!("stty cols 60 rows 12; exec {BINARY} watch {arguments}")).arg("/dev/null");
        command.env("REALTIME_TOKEN", token("anon")).env("TERM", "xterm").env_remove("NO_COLOR");
        if !colours {
            command.env("NO_COLOR", "1");
        }
        command.env("REALTIME_URL", format!("http://127.0.0.1:{}", server.port()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let output = child.stdout.take().context("stdout")?;
        Ok(Self { child, output, seen: String::new() })
    }

    /// Waits until a whole drawing has these lines, without looks.
    async fn shows(&mut self, lines: &[&str]) -> Result<()> {
        let limit = time::Instant::now() + PATIENCE;
        let mut buffer = vec![0; 4096];
        loop {
            let drawings: Vec<&str> = self.seen.split("\x1b[H").skip(1).collect();
            let mut drawn = drawings
                .iter()
                .filter_map(|drawing| drawing.split_once("\x1b[J"))
                .map(|(drawing, _)| plain(drawing));
            if drawn.clone().any(|drawing| drawing == lines) {
                return Ok(());
            }
            let last = drawn.next_back();
            let count = time::timeout_at(limit, self.output.read(&mut buffer)).await;
            let count = count.with_context(|| format!("{lines:?} were not shown, but {last:?}"))??;
            ensure!(count > 0, "it ended: {}", self.seen);
            self.seen += &String::from_utf8_lossy(&buffer[..count]);
        }
    }

    fn forget(&mut self) {
        self.seen.clear();
    }
}

/// The lines of a drawing, without colours and without space at the end.
fn plain(drawing: &str) -> Vec<String> {
    let mut text = String::new();
    let mut rest = drawing;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        text += before;
        rest =
            after.split_once(|character: char| character.is_ascii_alphabetic()).map_or("", |(_, rest)| rest);
    }
    text += rest;
    text.lines().map(|line| line.trim_end().to_owned()).collect()
}

#[tokio::test]
async fn people_see_a_table_that_changes_in_place() -> Result<()> {
    let (server, db, options) = start().await?;
    let head = "public.items  2 rows  ● live";
    let names = "  id  room  words";
    for colours in [true, false] {
        db.sql("truncate public.items; insert into public.items values (1, 5, 'a'), (2, 5, 'b')").await?;
        let mut terminal = Terminal::start(&server, "items --filter room=eq.5 --order id", colours)?;
        terminal.shows(&[head, names, "   1     5  a", "   2     5  b"]).await?;
        db.sql("begin; update public.items set words = 'c' where id = 1; delete from public.items where id = 2; insert into public.items values (3, 5, 'd'); end").await?;
        terminal.shows(&[head, names, "~  1     5  c", "-  2     5  b", "+  3     5  d"]).await?;
        terminal.shows(&[head, names, "   1     5  c", "   3     5  d"]).await?;
        assert_eq!(terminal.seen.contains("\x1b[32m"), colours, "NO_COLOR");
        terminal.forget();
        db.sql("update public.items set room = 6 where id = 3").await?;
        terminal.shows(&["public.items  1 row  ● live", names, "   1     5  c"]).await?;
        let pid = terminal.child.id().context("it ended")?.to_string();
        ensure!(Command::new("pkill").args(["-INT", "-P", &pid]).status().await?.success());
        let mut rest = String::new();
        time::timeout(PATIENCE, terminal.output.read_to_string(&mut rest)).await??;
        assert!(rest.contains("\x1b[?1049l"), "the terminal is as it was: {rest:?}");
        ensure!(terminal.child.wait().await?.success());
    }

    // The rows stay while the server is away, and are right when it is back.
    let mut terminal = Terminal::start(&server, "items --filter room=eq.5", false)?;
    terminal.shows(&["public.items  1 row  ● live", names, "   1     5  c"]).await?;
    server.stop().await?;
    db.sql("update public.items set words = 'later' where id = 1").await?;
    let _server = Server::start(BINARY, &db, options).await?;
    terminal.shows(&["public.items  1 row  ● live", names, "   1     5  later"]).await
}
