//! What is wrong with a tenant's database, on its page.

use anyhow::Result;
use realtime_testkit::{Server, TestDb};

use super::{Operator, options, text};
use crate::BINARY;

#[tokio::test]
async fn findings_are_shown_with_what_mends_them() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    db.sql("alter table public.test drop constraint test_pkey").await?;
    let server = Server::start(BINARY, &db, options()).await?;
    let mut ann = Operator::new(&server);
    let tenant = text(&ann.get("/tenants/realtime-dev").await?.body);
    assert!(tenant.contains("What is wrong, and what mends it"), "{tenant}");
    let page = text(&ann.get("/tenants/realtime-dev/doctor").await?.body);
    for part in [
        "error NoKey Table public.test has no primary key",
        "psql -c 'alter table public.test add primary key (id)'",
        "wal_level logical",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert_eq!(ann.get("/tenants/nobody/doctor").await?.status, 404);
    Ok(())
}
