//! What does a program see of the log that was written for `postgres-es`? Run it against a database of kassa's:
//!
//! `DATABASE_URL=postgresql:///kassa cargo run -p kassa-tests --example postgres_es [ORDER_ID]`

mod log;

use cqrs_es::{Aggregate as _, DomainEvent as _};
use kassa_domain::{order::Order, payment::Payment};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let database_url = std::env::var("DATABASE_URL")?;
    let log = log::open(&database_url).await?;
    if let Some(order_id) = std::env::args().nth(1) {
        let mut order = Order::default();
        for event in log::history::<Order>(&log, &order_id).await? {
            println!("{:>3} {}", event.sequence, event.payload.event_type());
            order.apply(event.payload);
        }
        println!(
            "status: {}",
            order.opened().map_or("unknown", |opened| opened.status())
        );
        return Ok(());
    }
    let (mut orders, mut payments) = (0_u64, 0_u64);
    log::replay::<Order>(&log, |_| orders += 1).await?;
    log::replay::<Payment>(&log, |_| payments += 1).await?;
    println!("{orders} events of orders, {payments} of payments");
    Ok(())
}
