-- Note workers, and tell of all that live. Message: each {id, record, microseconds}.
-- Returns the records.
for _, each in ipairs(message) do
  redis.call('HSET', base .. 'workers', each[1], each[2])
  redis.call('ZADD', base .. 'workers:until', now + each[3], each[1])
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', base .. 'workers:until', '-inf', now)) do
  redis.call('HDEL', base .. 'workers', id)
  redis.call('ZREM', base .. 'workers:until', id)
end
return redis.call('HVALS', base .. 'workers')
