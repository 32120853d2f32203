-- "<status> <queue>" and how many, in turn. Message: nothing.
return redis.call('HGETALL', base .. 'counts')
