//! What works on audit records beside the acts waits for no record that somebody is at: acts lock records first and then the chain's
//! row, and these the other way around.
use crate::support::{database, open, runtime};
use sqlx::{Connection as _, PgConnection, query_scalar, raw_sql};

#[test]
fn a_record_that_somebody_is_at_is_not_waited_for() {
    const SCENE: &str = "SET search_path = portcullis; SET lock_timeout = '2s'; \
         INSERT INTO audit_chain VALUES (1, '', 0, '\\x00', '', 0, '\\x00'); \
         INSERT INTO events (id, kind, actor, at, account, ip, reason) SELECT decode(lpad(n::text, 32, '0'), 'hex'), 'k', 'a', 1, \
            decode(repeat('01', 16), 'hex'), '192.0.2.1', 'why' FROM generate_series(1, 3) n; \
         INSERT INTO erasures SELECT decode(repeat('01', 16), 'hex'), 0, max(seq) FROM events";
    const SEAL: &str = "SELECT seal_records(jsonb_build_object('from', 0, 'from_link', '00', 'head', 3, 'head_link', '03', \
         'ids', (SELECT jsonb_agg(encode(id, 'hex')) FROM events), 'seals', (SELECT jsonb_agg(jsonb_build_object( \
            'id', encode(id, 'hex'), 'place', seq, 'link', '01')) FROM events)))";
    const ERASE: &str = "SELECT prune_events('{\"do\": \"erase_records\", \"most\": 9}')";
    const FORGET: &str = "SELECT prune_events('{\"do\": \"forget_event_addresses\", \"before\": 9, \"most\": 9}')";
    const LEFT: &str = "SELECT count(reason) FROM events";
    runtime().block_on(async {
        let url = database();
        drop(open(&url).await);
        let mut db = PgConnection::connect(&url).await.unwrap();
        raw_sql(SCENE).execute(&mut db).await.unwrap();
        let mut other = PgConnection::connect(&url).await.unwrap();
        raw_sql("BEGIN; UPDATE portcullis.events SET ended = 1 WHERE id = decode(lpad('2', 32, '0'), 'hex')")
            .execute(&mut other)
            .await
            .unwrap();
        let refused = query_scalar::<_, i64>(SEAL).fetch_one(&mut db).await.unwrap_err();
        assert_eq!(refused.as_database_error().map(|error| error.message()), Some("moved"));
        assert_eq!(query_scalar::<_, i64>(FORGET).fetch_one(&mut db).await.unwrap(), 2);
        assert_eq!(query_scalar::<_, i64>(ERASE).fetch_one(&mut db).await.unwrap(), 2);
        assert_eq!(query_scalar::<_, i64>(LEFT).fetch_one(&mut db).await.unwrap(), 1);
        raw_sql("COMMIT").execute(&mut other).await.unwrap();
        assert_eq!(query_scalar::<_, i64>(SEAL).fetch_one(&mut db).await.unwrap(), 3);
        assert_eq!(query_scalar::<_, i64>(FORGET).fetch_one(&mut db).await.unwrap(), 1);
        assert_eq!(query_scalar::<_, i64>(ERASE).fetch_one(&mut db).await.unwrap(), 4);
        assert_eq!(query_scalar::<_, i64>(ERASE).fetch_one(&mut db).await.unwrap(), 0);
        assert_eq!(query_scalar::<_, i64>(LEFT).fetch_one(&mut db).await.unwrap(), 0);
    });
}
