//! Two statements store appends: one for batches that win as a whole, one that decides one by one. Do they agree, and is the
//! quick one the one that is used?

use kassa_event_store::{Append, AppendError, Appended, NewEvent, NewTimer, ReadRequest, Touch, VaultRow};
use uuid::Uuid;

use crate::server::{Database, opening};

/// Tells for each command that was stored by which statement.
const SEE: &str = "CREATE TABLE seen (n bigserial, quick boolean);
     GRANT INSERT ON seen TO kassa_app; GRANT USAGE ON seen_n_seq TO kassa_app;
     CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN INSERT INTO seen (quick) VALUES (current_query() LIKE '%clear AS MATERIALIZED%'); RETURN NULL; END $$;
     CREATE TRIGGER see AFTER INSERT ON command_log FOR EACH ROW EXECUTE FUNCTION see()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_wins_is_stored_in_one_pass_and_who_lost_is_found_by_the_statement_that_decides() {
    let database = Database::migrated().await;
    let superuser = database.superuser().await;
    superuser.batch_execute(SEE).await.expect("an operator may");
    let store = database.store().await;
    let seen = async || -> Vec<bool> {
        let rows = superuser.query("SELECT quick FROM seen ORDER BY n", &[]).await;
        rows.expect("it is read").iter().map(|row| row.get(0)).collect()
    };

    let first = opening(&store, 0);
    let stream = first.touches[0].stream_id;
    let stored = |position| Ok::<_, String>(Appended::Stored { position });
    let append = async |append: Append| store.append(append).await.map_err(|error| error.to_string());
    assert_eq!(append(first.clone()).await, stored(1));

    // A stream that was there, one that must not be, one that begins; and all that may come beside events.
    let mut rich = opening(&store, 0);
    let event = |stream_id| NewEvent {
        stream_id,
        event_id: Uuid::new_v4(),
        ..first.events[0].clone()
    };
    rich.events.push(event(stream));
    rich.touches
        .extend([looked_at(stream, 1), looked_at(Uuid::new_v4(), 0)]);
    let timer_id = Uuid::new_v4();
    rich.timers.push(NewTimer {
        timer_id,
        due_at: rich.recorded_at,
        kind: "poll".to_owned(),
        stream_id: stream,
        payload: vec![1],
    });
    rich.vault.push(VaultRow {
        shopper_id: "shp_1".to_owned(),
        shop: "demo-shop".to_owned(),
        data: vec![2],
    });
    rich.reads.push(ReadRequest {
        order_id: "ord_1".to_owned(),
        shop: "demo-shop".to_owned(),
    });
    assert_eq!(append(rich).await, stored(3));
    assert_eq!(store.stream_version(stream).await.expect("it is read"), Some(2));
    for table in ["timers", "shoppers", "provider_reads"] {
        let sql = format!("SELECT count(*) FROM {table}");
        assert_eq!(database.number(&sql).await, 1, "{table}");
    }

    // A refusal looks only; it settles a timer.
    let mut refusal = empty(&first);
    refusal.touches = vec![looked_at(stream, 2)];
    refusal.done_timers = vec![timer_id];
    assert_eq!(append(refusal).await, stored(3));
    assert_eq!(database.number("SELECT count(*) FROM timers").await, 0);
    assert_eq!(seen().await, [true, true, true]);

    // Whoever saw too little loses, whatever it wanted to do.
    for (expected, writes) in [(1, true), (1, false), (0, true), (0, false), (3, true)] {
        let mut late = empty(&first);
        late.touches = vec![looked_at(stream, expected)];
        late.events.extend(writes.then(|| event(stream)));
        let lost = store.append(late).await;
        assert!(
            matches!(lost, Err(AppendError::Conflict)),
            "{expected} {writes}: {lost:?}"
        );
    }
    let repeat = store.append(first.clone()).await.expect("it is answered");
    assert!(
        matches!(repeat, Appended::Duplicate { position: 1, .. }),
        "{repeat:?}"
    );

    // Once nobody loses, the quick statement is back.
    for position in [4, 5] {
        assert_eq!(append(opening(&store, 0)).await, stored(position));
    }
    assert_eq!(seen().await, [true, true, true, false, true]);
    assert_eq!(database.number("SELECT count(*) FROM events").await, 5);
    assert_eq!(database.number("SELECT max(position) FROM events").await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_loser_among_many_costs_the_others_nothing() {
    let database = Database::migrated().await;
    let store = database.store().await;
    let first = opening(&store, 0);
    store.append(first.clone()).await.expect("it wins");
    let mut decisions: Vec<_> = (0..200).map(|_| opening(&store, 0)).collect();
    for n in [20, 90] {
        decisions[n]
            .touches
            .push(looked_at(first.touches[0].stream_id, 7));
    }
    decisions[50] = first;
    let answers = futures::future::join_all(decisions.into_iter().map(|one| store.append(one))).await;
    for (n, answer) in answers.iter().enumerate() {
        match n {
            20 | 90 => assert!(matches!(answer, Err(AppendError::Conflict)), "{answer:?}"),
            50 => assert!(matches!(answer, Ok(Appended::Duplicate { .. })), "{answer:?}"),
            _ => assert!(matches!(answer, Ok(Appended::Stored { .. })), "{answer:?}"),
        }
    }
    assert_eq!(store.head(0).await.expect("it is read"), 198);
    assert_eq!(database.number("SELECT count(*) FROM events").await, 198);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_part_counts_its_own_positions() {
    let database = Database::migrated().await;
    let mut superuser = database.superuser().await;
    kassa_migrations::add_parts(&mut superuser, 3)
        .await
        .expect("they are made");
    kassa_migrations::add_parts(&mut superuser, 3)
        .await
        .expect("they are there");
    let store = database.store().await;
    let decisions = (0..60).map(|n| opening(&store, n % 3));
    for answer in futures::future::join_all(decisions.map(|one| store.append(one))).await {
        answer.expect("it wins");
    }
    for part in 0..3 {
        assert_eq!(store.head(part).await.expect("it is read"), 20, "part {part}");
    }
    let gaps =
        "SELECT count(*) FROM (SELECT part, count(*) AS n, max(position) AS last FROM events GROUP BY part) p
                 WHERE n <> last";
    assert_eq!(database.number(gaps).await, 0);
}

fn looked_at(stream_id: Uuid, expected: i64) -> Touch {
    Touch { stream_id, expected }
}

/// Another command, which looks at nothing and stores no event.
fn empty(like: &Append) -> Append {
    Append {
        command_id: Uuid::new_v4(),
        touches: vec![],
        events: vec![],
        ..like.clone()
    }
}
