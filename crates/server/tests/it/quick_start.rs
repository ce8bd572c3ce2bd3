//! `docs/quick-start.md` and `docs/python.md`, followed to the letter: their programs, their commands, and what they say
//! these show. The functions of `docs/building-an-app.md`, in an application.

use std::{
    collections::HashMap, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio, sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use parking_lot::Mutex;
use realtime_testkit::{PATIENCE, free_port};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time,
};

use crate::BINARY;

const PAGE: &str = include_str!("../../../../docs/quick-start.md");
const PYTHON: &str = include_str!("../../../../docs/python.md");
const APP: &str = include_str!("../../../../docs/building-an-app.md");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A fenced block: the words after the fence, and the text.
struct Block {
    kind: String,
    label: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let (kind, label) = info.split_once(' ').unwrap_or((info, ""));
        let text: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        found.push(Block { kind: kind.to_owned(), label: label.to_owned(), text: text.join("\n") + "\n" });
    }
    found
}

/// Who follows the page.
struct Reader {
    folder: tempfile::TempDir,
    env: HashMap<&'static str, String>,
    programs: HashMap<String, Lines<BufReader<ChildStdout>>>,
    children: Vec<Child>,
    last: String,
}

impl Reader {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        command.current_dir(self.folder.path()).envs(&self.env).args(["-c", line]).kill_on_drop(true);
        command
    }

    async fn run(&self, line: &str) -> Result<()> {
        let done =
            time::timeout(PATIENCE, self.command(line).output()).await.with_context(|| line.to_owned())??;
        ensure!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    /// A line that starts a program runs beside all that follows.
    async fn shell(&mut self, line: &str) -> Result<()> {
        let of = |program: &'static str| Some((program, line.split_once(&format!("{program} "))?));
        let Some((program, (before, after))) = of("node").or_else(|| of("python")) else {
            return self.run(line).await;
        };
        let name = after.split(' ').next().unwrap_or_default();
        let line = format!("{before} exec {program} {after}");
        let mut child = self.command(&line).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("stdout")?;
        self.programs.insert(name.to_owned(), BufReader::new(output).lines());
        self.children.push(child);
        self.last = name.to_owned();
        Ok(())
    }

    /// What a program shows next; `…` stands for the rest of a line.
    async fn shows(&mut self, label: &str, text: &str) -> Result<()> {
        let name = if label.is_empty() { &self.last } else { label };
        let lines = self.programs.get_mut(name).with_context(|| format!("{name} was not started"))?;
        for expected in text.lines() {
            let line = time::timeout(PATIENCE, lines.next_line()).await;
            let line = line.with_context(|| format!("{name} does not show {expected:?}"))??;
            let line = line.with_context(|| format!("{name} ended before {expected:?}"))?;
            let same = match expected.strip_suffix('…') {
                Some(beginning) => line.starts_with(beginning),
                None => line.trim_end() == expected,
            };
            ensure!(same, "{name} shows {line:?}, not {expected:?}");
        }
        Ok(())
    }

    async fn follow(&mut self, block: &Block) -> Result<()> {
        match block.kind.as_str() {
            "js" | "python" => Ok(fs::write(self.folder.path().join(&block.label), &block.text)?),
            "sql" => {
                fs::write(self.folder.path().join("block.sql"), &block.text)?;
                self.run(r#"psql "$DATABASE" --set ON_ERROR_STOP=1 --file block.sql"#).await
            }
            "sh" => {
                for line in block.text.lines() {
                    self.shell(line).await?;
                }
                Ok(())
            }
            "text" => self.shows(&block.label, &block.text).await,
            // Where the page tells what a test prepares.
            "console" => Ok(()),
            other => bail!("a block of an unknown kind, {other:?}"),
        }
    }
}

/// `realtime dev` in a folder of its own, and what it prints.
async fn dev(folder: &Path) -> Result<(Child, HashMap<&'static str, String>, Arc<Mutex<String>>)> {
    let (port, pg_port) = (free_port()?, free_port()?);
    let mut command = Command::new(BINARY);
    command.args(["dev", "--pg-port", &pg_port.to_string(), "--port", &port.to_string()]);
    command.arg("--data-dir").arg(folder);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let mut env = HashMap::from([("URL", format!("http://localhost:{port}"))]);
    let names = [("Token", "TOKEN"), ("Database", "DATABASE"), ("Secret", "API_JWT_SECRET")];
    while env.len() <= names.len() {
        let line = time::timeout(PATIENCE, lines.next_line()).await.context("not ready")??;
        let line = line.context("it ended")?;
        let words: Vec<_> = line.split_whitespace().collect();
        let (Some(first), Some(value)) = (words.first(), words.get(1)) else { continue };
        if let Some((_, variable)) = names.iter().find(|(name, _)| name == first) {
            env.insert(*variable, (*value).to_owned());
        }
    }
    let later = Arc::<Mutex<String>>::default();
    let shown = Arc::clone(&later);
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            shown.lock().push_str(&(line + "\n"));
        }
    });
    Ok((child, env, later))
}

/// A PostgreSQL that has ended, as one whose disk was full does, is started again on its port, and that is told.
#[tokio::test]
async fn dev_starts_its_postgresql_again() -> Result<()> {
    let data = tempfile::tempdir()?;
    fs::set_permissions(data.path(), fs::Permissions::from_mode(0o755))?;
    let (mut server, env, later) = dev(&data.path().join("dev")).await?;
    let pid = fs::read_to_string(data.path().join("dev/postgres/data/postmaster.pid"))?;
    let pid = pid.lines().next().context("pid")?.to_owned();
    ensure!(Command::new("kill").args(["-QUIT", &pid]).status().await?.success());
    realtime_testkit::until("it runs again", async || Ok(later.lock().contains("PostgreSQL runs again")))
        .await?;
    let said = later.lock().clone();
    ensure!(said.contains("PostgreSQL has ") || said.contains("PostgreSQL ended "), "{said}");
    let (client, connection) =
        tokio_postgres::connect(env.get("DATABASE").context("url")?, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("select 1").await?;
    let pid = server.id().context("it ended")?;
    Command::new("kill").args(["-INT", &pid.to_string()]).status().await?;
    time::timeout(PATIENCE, server.wait()).await??;
    Ok(())
}

#[tokio::test]
async fn the_page_is_true() -> Result<()> {
    follow_page(PAGE).await
}

#[tokio::test]
async fn the_page_for_python_is_true() -> Result<()> {
    follow_page(PYTHON).await
}

/// Somebody who starts `realtime dev`, and what its end takes.
async fn reader() -> Result<(Reader, Child, tempfile::TempDir)> {
    let modules = Path::new(ROOT).join("clients/js/node_modules");
    ensure!(modules.exists(), "run `npm ci` in clients/js, or scripts/test");
    let python = Path::new(ROOT).join("clients/python/.venv/bin");
    ensure!(python.exists(), "make clients/python/.venv from requirements.txt, or run scripts/test");
    let data = tempfile::tempdir()?;
    // PostgreSQL may run as another user.
    fs::set_permissions(data.path(), fs::Permissions::from_mode(0o755))?;
    let (server, mut env, _) = dev(&data.path().join("dev")).await?;
    let binaries = Path::new(BINARY).parent().context("no folder")?.display().to_string();
    env.insert("PATH", format!("{binaries}:{}:{}", python.display(), std::env::var("PATH")?));
    let folder = tempfile::tempdir()?;
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules"))?;
    let reader = Reader { folder, env, programs: HashMap::new(), children: Vec::new(), last: String::new() };
    Ok((reader, server, data))
}

/// Stops the server, so that it takes its PostgreSQL with it.
async fn stop(mut server: Child) -> Result<()> {
    let pid = server.id().context("it ended")?;
    Command::new("kill").args(["-INT", &pid.to_string()]).status().await?;
    time::timeout(PATIENCE, server.wait()).await??;
    Ok(())
}

async fn follow_page(page: &str) -> Result<()> {
    let (mut reader, server, _data) = reader().await?;
    for (number, block) in blocks(page).iter().enumerate() {
        let block_name = || format!("block {number}: {}", block.text);
        reader.follow(block).await.with_context(block_name)?;
    }
    stop(server).await
}

/// An application with `connect` and `follow` of the page. `realtime token` stands for its backend.
const APPLICATION: &str = r#"
import { execFileSync } from 'node:child_process'
import ws from 'ws'
import { connect } from './app.mjs'
import { follow } from './rows.mjs'

const run = (program, ...rest) => execFileSync(program, rest).toString().trim()
globalThis.fetch = async () => {
  const token = run('realtime', 'token', '--role', 'anon', '--expires-in', '70s')
  return { ok: true, json: async () => ({ token, expires: Date.now() + 70_000 }) }
}
const supabase = connect(process.env.URL, process.env.TOKEN, { realtime: { transport: ws } })
follow(supabase, 'todos', {
  watch: { table: 'todos' },
  read: async () => JSON.parse(run('psql', process.env.DATABASE, '-tAc', "select coalesce(json_agg(todos order by id), '[]') from todos")),
  changed: (rows) => console.log('rows:', rows.map(({ task }) => task).join(', ')),
  problem: (text) => console.error(text),
})
"#;

/// The list of `follow` is right after changes, and after the server has lost its database.
#[tokio::test]
async fn the_functions_for_applications_work() -> Result<()> {
    let (mut reader, server, _data) = reader().await?;
    for block in blocks(APP).iter().filter(|block| block.kind == "js" && !block.label.is_empty()) {
        reader.follow(block).await?;
    }
    fs::write(reader.folder.path().join("application.mjs"), APPLICATION)?;
    reader.shell("node application.mjs").await?;
    let mut sees = async |expected: &str, statement: &str| -> Result<()> {
        let lines = reader.programs.get_mut("application.mjs").context("it was not started")?;
        loop {
            let line =
                time::timeout(PATIENCE, lines.next_line()).await.with_context(|| expected.to_owned())??;
            if line.context("the application ended")?.trim_end() == expected {
                break;
            }
        }
        reader.run(&format!("psql \"$DATABASE\" -c \"{statement}\"")).await
    };
    sees("rows:", "insert into todos (task) values ('one')").await?;
    let lost = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like 'realtime%'";
    sees("rows: one", &format!("{lost}; insert into todos (task) values ('two')")).await?;
    sees("rows: one, two", "delete from todos where task = 'one'").await?;
    sees("rows: two", "delete from todos").await?;
    sees("rows:", "select").await?;
    stop(server).await
}
