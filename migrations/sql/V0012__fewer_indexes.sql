-- One index less for each event. An event's id is made from its stream and version, which are unique already; but a fact that
-- may be true once in an epoch, and ships goods, has its id from order, kind and epoch (`OrderEvent::epoch`). Those alone need
-- an index that refuses a second one.
CREATE UNIQUE INDEX events_p0_epoch ON events_p0 (event_id)
    WHERE event_type IN ('ConfidenceReachedSafe', 'SafetyLost');
DROP INDEX events_p0_event_id;
