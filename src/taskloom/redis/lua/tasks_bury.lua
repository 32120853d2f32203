-- Keep records that are no tasks, each once. Message: each {digest, record}.
for _, each in ipairs(message) do
  if redis.call('HSETNX', base .. 'dead', each[1], each[2]) == 1 then
    redis.call('RPUSH', base .. 'dead:order', each[1])
  end
end
