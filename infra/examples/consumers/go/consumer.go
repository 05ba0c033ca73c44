// Releases each safe order once, holds it when safety is lost, parks what cannot be handled. `go mod tidy && go run .`
package main

import ("context"; "database/sql"; "encoding/json"; "fmt"; "os"; "strings"; "time")
import ("github.com/nats-io/nats.go"; "github.com/nats-io/nats.go/jetstream"; _ "modernc.org/sqlite")

const durable, tries = "ship-go", 5
var work = map[string]string{"kassa.order.payment_safe.v1": "release", "kassa.order.payment_safety_lost.v1": "hold"}
var filters = []string{"kassa.evt.*.*.order.*.payment_safe", "kassa.evt.*.*.order.*.payment_safety_lost"}

func must[T any](value T, err error) T { if err != nil { panic(err) }; return value }
// Inbox and work are one row. A verb that is not known fails the check: it is never guessed at.
const table = `CREATE TABLE IF NOT EXISTS work (event_id TEXT PRIMARY KEY, order_id TEXT, epoch INTEGER, verb TEXT CHECK (verb <> ''))`
const insert = `INSERT INTO work SELECT ?1, ?2, ?3, ?4 WHERE ?4 = 'hold' OR NOT EXISTS (SELECT 1 FROM work WHERE order_id = ?2 AND (epoch > ?3 OR epoch = ?3 AND verb = 'hold')) ON CONFLICT (event_id) DO NOTHING`

func handle(db *sql.DB, body []byte) (string, error) {
	var event struct { ID, Type string; Data struct { Order string `json:"order_id"`; Epoch int } }
	if err := json.Unmarshal(body, &event); err != nil { return "", err }
	verb := work[event.Type]
	done, err := db.Exec(insert, event.ID, event.Data.Order, event.Data.Epoch, verb)
	if err != nil { return "", err }
	if rows := must(done.RowsAffected()); rows == 0 { return "", nil } // a repeat, or its hold or a later release came first
	return fmt.Sprintln(verb, event.Data.Order, event.Data.Epoch), nil
}
func main() {
	ctx, user, db := context.Background(), os.Getenv("NATS_USER"), must(sql.Open("sqlite", os.Getenv("INBOX")))
	must(db.Exec(table))
	js := must(jetstream.New(must(nats.Connect(os.Getenv("NATS_URL"), nats.UserInfo(user, os.Getenv("NATS_PASSWORD")), nats.CustomInboxPrefix("_INBOX_"+user)))))
	wanted := jetstream.ConsumerConfig{Durable: durable, AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxAckPending: 64, FilterSubjects: filters}
	messages := must(must(js.CreateOrUpdateConsumer(ctx, "KASSA_EVENTS", wanted)).Messages(jetstream.PullMaxMessages(1)))
	for {
		m := must(messages.Next()); meta, to := must(m.Metadata()), strings.Split(m.Subject(), ".")
		line, err := handle(db, m.Data())
		if err == nil { fmt.Print(line); must(0, m.Ack()); continue }
		if meta.NumDelivered < tries { must(0, m.NakWithDelay(time.Second<<meta.NumDelivered)); continue } // a repeat may help, not for ever
		letter := &nats.Msg{Subject: strings.Join([]string{"kassa.dlq", durable, to[3], "order", to[5]}, "."), Data: m.Data()}
		letter.Header = nats.Header{"Kassa-Consumer": {durable}, "Kassa-Error": {err.Error()}, "Kassa-Deliveries": {fmt.Sprint(meta.NumDelivered)}, "Kassa-Stream": {meta.Stream}, "Kassa-Sequence": {fmt.Sprint(meta.Sequence.Stream)}, "Kassa-Subject": {m.Subject()}, "Kassa-Time": {fmt.Sprint(meta.Timestamp.Unix())}}
		must(js.PublishMsg(ctx, letter)); must(0, m.Term()) // only now that it is kept for a person
	}
}
