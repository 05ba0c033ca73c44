// Releases each safe order once, holds it when safety is lost, parks what cannot be handled. Needs io.nats:jnats 2.20 or newer
// and org.xerial:sqlite-jdbc on the class path.
import io.nats.client.*;
import io.nats.client.api.*;
import io.nats.client.impl.*;
import io.nats.client.support.*;
import java.sql.*;
import java.time.Duration;
import java.util.Map;

public class Consumer {
    static final String DURABLE = "ship-java", INSERT = "INSERT INTO work SELECT ?1, ?2, ?3, ?4 WHERE ?4 = 'hold' OR NOT EXISTS (SELECT 1 FROM work WHERE order_id = ?2 AND (epoch > ?3 OR epoch = ?3 AND verb = 'hold')) ON CONFLICT (event_id) DO NOTHING";
    static final Map<String, String> WORK = Map.of("kassa.order.payment_safe.v1", "release", "kassa.order.payment_safety_lost.v1", "hold");

    /** The line to print, or null for a repeat or a release whose hold, or a later one, came first. Inbox and work are one row; what is not known is never guessed at. */
    static String handle(java.sql.Connection db, byte[] body) throws Exception {
        Map<String, JsonValue> event = JsonParser.parse(body).map, data = event.get("data").map;
        String verb = WORK.get(event.get("type").string), order = data.get("order_id").string; int epoch = data.get("epoch").i;
        if (verb == null) throw new IllegalArgumentException("unknown type");
        PreparedStatement insert = db.prepareStatement(INSERT);
        insert.setString(1, event.get("id").string); insert.setString(2, order); insert.setInt(3, epoch); insert.setString(4, verb);
        return insert.executeUpdate() == 0 ? null : verb + " " + order + " " + epoch;
    }
    public static void main(String[] args) throws Exception {
        String url = System.getenv("NATS_URL"), user = System.getenv("NATS_USER"), password = System.getenv("NATS_PASSWORD");
        java.sql.Connection db = DriverManager.getConnection("jdbc:sqlite:" + System.getenv("INBOX"));
        db.createStatement().execute("CREATE TABLE IF NOT EXISTS work (event_id TEXT PRIMARY KEY, order_id TEXT, epoch INTEGER, verb TEXT)");
        io.nats.client.Connection nc = Nats.connect(Options.builder().server(url).userInfo(user, password).inboxPrefix("_INBOX_" + user).build());
        ConsumerContext consumer = nc.getStreamContext("KASSA_EVENTS").createOrUpdateConsumer(ConsumerConfiguration.builder().durable(DURABLE).ackPolicy(AckPolicy.Explicit)
            .ackWait(30_000).maxAckPending(64).filterSubjects("kassa.evt.*.*.order.*.payment_safe", "kassa.evt.*.*.order.*.payment_safety_lost").build());
        for (Message m; ; ) {
            if ((m = consumer.next(Duration.ofSeconds(30))) == null) continue; // nothing to do
            NatsJetStreamMetaData meta = m.metaData(); String[] to = m.getSubject().split("\\.");
            try { String line = handle(db, m.getData()); if (line != null) System.out.println(line); m.ack(); } catch (Exception error) { // a repeat may help, not for ever
                if (meta.deliveredCount() < 5) { m.nakWithDelay(Duration.ofSeconds(1L << meta.deliveredCount())); continue; }
                Headers about = new Headers().put("Kassa-Consumer", DURABLE).put("Kassa-Error", error.getClass().getSimpleName()).put("Kassa-Subject", m.getSubject()).put("Kassa-Stream", meta.getStream())
                    .put("Kassa-Deliveries", "" + meta.deliveredCount()).put("Kassa-Sequence", "" + meta.streamSequence()).put("Kassa-Time", "" + meta.timestamp().toEpochSecond());
                nc.jetStream().publish("kassa.dlq." + DURABLE + "." + to[3] + ".order." + to[5], about, m.getData()); m.term(); // only now that it is kept for a person
            } } } }
