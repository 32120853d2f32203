-- Message: {id}. Returns what counted, in no order.
return redis.call('HVALS', steps_key(message[1]))
