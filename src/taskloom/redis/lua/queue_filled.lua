-- What the storage knows of was put again. Message: {when the group was made}. A loss since then
-- stays told.
if redis.call('GET', new) == message[1] then
  redis.call('DEL', new)
end
