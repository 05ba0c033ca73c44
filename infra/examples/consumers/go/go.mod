module kassa.example/consumer

go 1.25

require (
	github.com/nats-io/nats.go v1.53.1
	modernc.org/sqlite v1.44.3
)
