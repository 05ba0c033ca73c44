//! How do many rows get in quickly? Without their indexes, which are made anew from all rows at once.

use tokio_postgres::Client;

/// An index or a constraint that is away, as SQL that brings it back.
#[derive(Debug)]
pub(super) struct Dropped {
    again: String,
    of_log: bool,
}

/// Takes all indexes from these tables and their partitions.
pub(super) async fn drop_all(
    client: &Client,
    tables: impl Iterator<Item = &str>,
) -> anyhow::Result<Vec<Dropped>> {
    let mut names: Vec<String> = tables.map(ToOwned::to_owned).collect();
    let leaves = client
        .query(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent::regclass::text = ANY ($1)",
            &[&names],
        )
        .await?;
    names.extend(leaves.iter().map(|row| row.get::<_, String>(0)));
    let constraints = client
        .query(
            "SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint
              WHERE conrelid::regclass::text = ANY ($1) AND contype IN ('p', 'u') AND conislocal",
            &[&names],
        )
        .await?;
    let mut dropped = Vec::new();
    for row in &constraints {
        let (table, name, definition): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        client
            .batch_execute(&format!("ALTER TABLE {table} DROP CONSTRAINT {name}"))
            .await?;
        dropped.push(Dropped {
            of_log: table.starts_with("events"),
            again: format!("ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"),
        });
    }
    let indexes = client
        .query(
            "SELECT indrelid::regclass::text, indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
              WHERE indrelid::regclass::text = ANY ($1)",
            &[&names],
        )
        .await?;
    for row in &indexes {
        let (table, name, again): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        client.batch_execute(&format!("DROP INDEX {name}")).await?;
        dropped.push(Dropped {
            of_log: table.starts_with("events"),
            again,
        });
    }
    Ok(dropped)
}

/// Brings them back: those of the log on one connection, the others on the other one.
pub(super) async fn make_all(log: &Client, rest: &Client, dropped: &[Dropped]) -> anyhow::Result<()> {
    let make = async |client: &Client, of_log: bool| -> anyhow::Result<()> {
        client.batch_execute("SET maintenance_work_mem = '256MB'").await?;
        for index in dropped.iter().filter(|index| index.of_log == of_log) {
            client.batch_execute(&index.again).await?;
        }
        Ok(())
    };
    tokio::try_join!(make(log, true), make(rest, false))?;
    Ok(())
}
